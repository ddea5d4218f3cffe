"""Reading the items of a request's input into turns of the neutral model."""

from typing import Any

import msgspec

from tollhouse.completions.wire.base import only_known
from tollhouse.completions.wire.fields import objects, optional_object, required_text, text
from tollhouse.completions.wire.responses.content import (
    ASSISTANT_PARTS,
    OUTPUT_PARTS,
    SYSTEM_PARTS,
    USER_PARTS,
    content,
)
from tollhouse.errors import InvalidRequest
from tollhouse.providers.conversation import Message, Part, Role, Text, Thinking, ToolCall, ToolResult
from tollhouse.providers.responses.foreign import unsealed

# What every item of an answer has, and brings back when it is sent on.
_ECHOED = ("type", "id", "status")
_MESSAGE = (*_ECHOED, "role", "content", "phase")
_CALL = (*_ECHOED, "call_id", "name", "arguments", "extra_content", "parsed_arguments")
_ROLES: dict[Any, tuple[Role, tuple[str, ...]]] = {
    "user": ("user", USER_PARTS),
    "assistant": ("assistant", ASSISTANT_PARTS),
    "system": ("system", SYSTEM_PARTS),
    "developer": ("system", SYSTEM_PARTS),
}


def conversation(body: dict[str, Any]) -> tuple[Message, ...]:
    """Return the turns of a request, its instructions first.

    Items of the model that follow each other are one turn: what it thought, said and called at once. So are results of
    tools, as most vendors want all results of a turn's calls together.
    """
    turns: list[Message] = []
    if instructions := text(body, "instructions"):
        turns.append(Message("system", instructions))
    given = body.get("input")
    if isinstance(given, str):
        return (*turns, Message("user", given))
    before = len(turns)
    names: dict[str, str] = {}
    made: list[Message] = []
    results: list[Part] = []
    for i, item in enumerate(objects(body, "input")):
        where = f"input[{i}]."
        kind = "message" if item.get("type") is None else item["type"]
        if kind == "function_call_output":
            _close(turns, made)
            results.append(_result(item, names, where))
            continue
        turn = _turn(kind, item, names, where)
        if turn is None:
            continue
        if results:
            turns.append(Message("user", tuple(results)))
            results = []
        if turn.role == "assistant":
            made.append(turn)
            continue
        _close(turns, made)
        turns.append(turn)
    _close(turns, made)
    if results:
        turns.append(Message("user", tuple(results)))
    if len(turns) == before:
        raise InvalidRequest("input: expected at least one item that the model's provider can be given")
    return tuple(turns)


def _close(turns: list[Message], made: list[Message]) -> None:
    """End a turn of the model, if one is open."""
    if len(made) == 1:
        turns.append(made[0])
    elif made:
        turns.append(Message("assistant", tuple(part for turn in made for part in turn.parts)))
    made.clear()


def _turn(kind: Any, item: dict[str, Any], names: dict[str, str], where: str) -> Message | None:
    """Return what an item says; None for reasoning that is of use to OpenAI alone."""
    if kind == "message":
        only_known(item, _MESSAGE, where)
        role = item.get("role")
        if not isinstance(role, str) or role not in _ROLES:
            raise InvalidRequest(f"{where}role: expected one of {', '.join(_ROLES)}")
        name, parts = _ROLES[role]
        return Message(name, content(item.get("content"), parts, f"{where}content"))
    if kind == "function_call":
        call = _call(item, where)
        names[call.id] = call.name
        return Message("assistant", (call,))
    if kind == "reasoning":
        thought = _thinking(item, where)
        return None if thought is None else Message("assistant", (thought,))
    if kind == "item_reference":
        raise InvalidRequest(f"{where}type: the model's provider does not have what an item_reference points to")
    known = "message, function_call, function_call_output, reasoning"
    raise InvalidRequest(f"{where}type: only {known} can be translated for the model's provider")


def _call(item: dict[str, Any], where: str) -> ToolCall:
    only_known(item, _CALL, where)
    arguments = text(item, "arguments", where) or "{}"
    try:
        is_object = isinstance(msgspec.json.decode(arguments), dict)
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
        is_object = False
    if not is_object:
        raise InvalidRequest(f"{where}arguments: expected a JSON object, as text")
    extra = optional_object(item, "extra_content", where) or {}
    google = optional_object(extra, "google", f"{where}extra_content.") or {}
    return ToolCall(
        id=required_text(item, "call_id", where),
        name=required_text(item, "name", where),
        arguments=arguments,
        signature=text(google, "thought_signature", f"{where}extra_content.google."),
    )


def _result(item: dict[str, Any], names: dict[str, str], where: str) -> ToolResult:
    only_known(item, (*_ECHOED, "call_id", "output", "name"), where)
    call_id = required_text(item, "call_id", where)
    output = content(item.get("output"), OUTPUT_PARTS, f"{where}output")
    parts = (Text(output),) if isinstance(output, str) else output
    return ToolResult(call_id, names.get(call_id) or text(item, "name", where) or "", parts)


def _thinking(item: dict[str, Any], where: str) -> Thinking | None:
    only_known(item, (*_ECHOED, "summary", "content", "encrypted_content"), where)
    summary = objects(item, "summary", where)
    texts = [text(piece, "text", f"{where}summary[{j}].") or "" for j, piece in enumerate(summary)]
    return unsealed(item.get("encrypted_content"), "".join(texts))

"""A neutral request in Anthropic's words."""

import binascii
import re
from base64 import b64decode
from typing import Any

import msgspec

from tollhouse.errors import InvalidRequest
from tollhouse.providers.anthropic.schema import enforceable
from tollhouse.providers.anthropic.thinking import thinking_fields
from tollhouse.providers.conversation import (
    CacheMark,
    Media,
    Message,
    Part,
    ProviderRequest,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolResult,
)
from tollhouse.providers.parsing import UNREADABLE

_CACHED: dict[CacheMark, dict[str, str]] = {
    "5m": {"type": "ephemeral"},
    "1h": {"type": "ephemeral", "ttl": "1h"},
}
_NOT_IN_IDS = re.compile(r"[^A-Za-z0-9_-]")

_Blocks = list[dict[str, Any]]


class _Turn(msgspec.Struct):
    role: str
    content: str | _Blocks


class _Body(msgspec.Struct, omit_defaults=True):
    model: str
    max_tokens: int
    messages: list[_Turn]
    system: str | _Blocks = ""
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop_sequences: tuple[str, ...] = ()
    tools: tuple[dict[str, Any], ...] = ()
    tool_choice: dict[str, Any] | None = None
    thinking: dict[str, Any] | None = None
    output_config: dict[str, Any] | None = None
    metadata: dict[str, str] | None = None
    stream: bool = False


_encoder = msgspec.json.Encoder()
_object_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])


def encode_request(request: ProviderRequest) -> bytes:
    """Return a request's body; raises InvalidRequest for what Anthropic's format cannot say."""
    _refuse_what_has_no_name(request)
    turns = _turns(request.messages)
    if not turns:
        raise InvalidRequest("messages: expected at least one turn of the user, found system turns only")
    thinking, effort = thinking_fields(request)
    body = _Body(
        model=request.model,
        max_tokens=request.max_tokens,
        messages=turns,
        system=_system(request.messages),
        temperature=request.temperature,
        top_p=request.top_p,
        top_k=request.top_k,
        stop_sequences=request.stop,
        tools=tuple(map(_tool, request.tools)),
        tool_choice=_tool_choice(request),
        thinking=thinking,
        output_config=_output_config(request.response_schema, effort),
        metadata=None if request.user is None else {"user_id": request.user},
        stream=request.stream,
    )
    return encode_body(body)


def encode_body(body: Any) -> bytes:
    """Return a body as JSON; raises InvalidRequest where a schema or the like in it is nested without end."""
    try:
        return _encoder.encode(body)
    except RecursionError:
        raise InvalidRequest("the body is nested too deeply") from None


def _refuse_what_has_no_name(request: ProviderRequest) -> None:
    if request.seed is not None:
        raise InvalidRequest("seed: Anthropic's models have none")
    if request.presence_penalty:
        raise InvalidRequest("presence_penalty: Anthropic's models have none")
    if request.frequency_penalty:
        raise InvalidRequest("frequency_penalty: Anthropic's models have none")
    if request.is_json and request.response_schema is None:
        raise InvalidRequest("is_json: Anthropic's models answer in JSON of a given schema only")


def _system(messages: tuple[Message, ...]) -> str | _Blocks:
    # System turns have no place in the conversation, but on the newest models: they are sent ahead of it.
    if all(isinstance(message.content, str) for message in messages if message.role == "system"):
        return "\n\n".join(str(message.content) for message in messages if message.role == "system")
    blocks: _Blocks = []
    for index, message in enumerate(messages):
        if message.role != "system":
            continue
        for at, part in enumerate(message.parts):
            if not isinstance(part, Text):
                raise InvalidRequest(f"messages[{index}].content[{at}]: Anthropic's system prompt takes text only")
            if part.text:
                blocks.append(_text(part))
    return blocks or ""


def _turns(messages: tuple[Message, ...]) -> list[_Turn]:
    turns: list[_Turn] = []
    for index, message in enumerate(messages):
        if message.role == "system":
            continue
        content: str | _Blocks
        if isinstance(message.content, str):
            content = message.content
        else:
            content = _blocks(message.content, f"messages[{index}].content")
            if not content:
                continue
        last = turns[-1] if turns else None
        if last is None or last.role != message.role or (isinstance(last.content, str) and isinstance(content, str)):
            turns.append(_Turn(message.role, content))
        else:
            # The API merges turns of one role in a row by itself, but pairs tool calls with the next turn's results.
            last.content = [*_as_blocks(last.content), *_as_blocks(content)]
    for turn in turns:
        if turn.role == "user" and not isinstance(turn.content, str):
            # Results have to come first in their turn; the order of all else is kept.
            turn.content.sort(key=lambda block: block["type"] != "tool_result")
    return turns


def _as_blocks(content: str | _Blocks) -> _Blocks:
    if isinstance(content, str):
        return [{"type": "text", "text": content}] if content else []
    return content


def _blocks(parts: tuple[Part, ...], where: str) -> _Blocks:
    """Return parts as blocks, without those that say nothing: empty texts, and thinking that proves no origin."""
    blocks = (_block(part, f"{where}[{index}]") for index, part in enumerate(parts))
    return [block for block in blocks if block is not None]


def _block(part: Part, where: str) -> dict[str, Any] | None:
    match part:
        case Text():
            # The API refuses empty texts.
            return _text(part) if part.text else None
        case Media():
            return _media(part, where)
        case ToolCall():
            called = {"type": "tool_use", "id": _id(part.id), "name": part.name, "input": _input(part.arguments, where)}
            return _cached(called, part.cache)
        case ToolResult():
            return _tool_result(part, where)
        case Thinking():
            return _thinking(part)


def _text(part: Text) -> dict[str, Any]:
    return _cached({"type": "text", "text": part.text}, part.cache)


def _cached(block: dict[str, Any], cache: CacheMark | None) -> dict[str, Any]:
    if cache is not None:
        block["cache_control"] = _CACHED[cache]
    return block


def _media(part: Media, where: str) -> dict[str, Any]:
    if part.kind == "audio":
        raise InvalidRequest(f"{where}: Anthropic's models take no audio")
    block: dict[str, Any] = {"type": part.kind}
    if part.url is not None:
        block["source"] = {"type": "url", "url": part.url}
    elif part.base64 is None or part.media_type is None:
        raise InvalidRequest(f"{where}: expected an address, or data and their media type")
    elif part.kind == "document" and part.media_type != "application/pdf":
        block["source"] = {"type": "text", "media_type": "text/plain", "data": _plain_text(part, where)}
    else:
        block["source"] = {"type": "base64", "media_type": part.media_type, "data": part.base64}
    if part.kind == "document" and part.name:
        block["title"] = part.name
    return _cached(block, part.cache)


def _plain_text(part: Media, where: str) -> str:
    if part.media_type is None or not part.media_type.startswith("text/"):
        raise InvalidRequest(f"{where}: Anthropic's models take documents of type application/pdf or text only")
    try:
        return b64decode(part.base64 or "", validate=True).decode()
    except (binascii.Error, ValueError):
        raise InvalidRequest(f"{where}: expected text in UTF-8, encoded in base64") from None


def _id(call_id: str) -> str:
    # Other vendors' ids may hold what Anthropic refuses; both ends of a pair change alike.
    return _NOT_IN_IDS.sub("_", call_id)


def _input(arguments: str, where: str) -> msgspec.Raw:
    try:
        raw = (arguments.strip() or "{}").encode()
        _object_decoder.decode(raw)
    except (*UNREADABLE, UnicodeEncodeError):
        raise InvalidRequest(f"{where}: expected a tool call's arguments as a JSON object") from None
    # As it came, digit for digit.
    return msgspec.Raw(raw)


def _tool_result(part: ToolResult, where: str) -> dict[str, Any]:
    block: dict[str, Any] = {"type": "tool_result", "tool_use_id": _id(part.call_id)}
    content = _blocks(part.content, f"{where}.content")
    if len(content) == 1 and content[0].keys() == {"type", "text"}:
        block["content"] = content[0]["text"]
    elif content:
        block["content"] = content
    if part.is_error:
        block["is_error"] = True
    return _cached(block, part.cache)


def _thinking(part: Thinking) -> dict[str, Any] | None:
    if part.signature is not None:
        return {"type": "thinking", "thinking": part.text, "signature": part.signature}
    if part.redacted is not None:
        return {"type": "redacted_thinking", "data": part.redacted}
    # Nothing proves it to be Anthropic's own, and the API refuses what is not.
    return None


def _tool(tool: Tool) -> dict[str, Any]:
    described: dict[str, Any] = {"name": tool.name}
    if tool.description:
        described["description"] = tool.description
    described["input_schema"] = {"type": "object", "properties": {}} if tool.parameters is None else tool.parameters
    if tool.is_strict:
        try:
            described["input_schema"] = enforceable(described["input_schema"], "tools")
            described["strict"] = True
        except InvalidRequest:
            # What cannot be enforced is still followed, less firmly.
            pass
    return _cached(described, tool.cache)


def _tool_choice(request: ProviderRequest) -> dict[str, Any] | None:
    choice = request.tool_choice
    if not request.tools and (choice is None or choice.mode in {"auto", "none"}):
        # It asks for nothing then, and is refused all the same.
        return None
    if choice is None and request.allows_parallel_calls is not False:
        return None
    match "auto" if choice is None else choice.mode:
        case "none":
            return {"type": "none"}
        case "auto":
            chosen: dict[str, Any] = {"type": "auto"}
        case "required":
            chosen = {"type": "any"}
        case _:
            chosen = {"type": "tool", "name": "" if choice is None else choice.name}
    if request.allows_parallel_calls is False:
        chosen["disable_parallel_tool_use"] = True
    return chosen


def _output_config(schema: dict[str, Any] | None, effort: str | None) -> dict[str, Any] | None:
    config: dict[str, Any] = {}
    if schema is not None:
        config["format"] = {"type": "json_schema", "schema": enforceable(schema, "response_schema")}
    if effort is not None:
        config["effort"] = effort
    return config or None

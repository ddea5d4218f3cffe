"""Reading the messages of a chat completion request into the neutral model."""

import mimetypes
import re
from typing import Any, Literal

import msgspec

from tollhouse.completions.wire.base import only_known
from tollhouse.completions.wire.fields import an_object, cache_mark, objects, optional_object, required_text, text
from tollhouse.errors import InvalidRequest
from tollhouse.providers.conversation import (
    CacheMark,
    Media,
    Message,
    Part,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
)

_DATA_URL = re.compile(r"data:(?P<type>[\w.+-]+/[\w.+-]+)(;[\w-]+=[^;,]*)*;base64,", re.ASCII | re.IGNORECASE)
_DETAILS: dict[str | None, Literal["low", "high", "auto"] | None] = {
    None: None,
    "low": "low",
    "high": "high",
    "auto": "auto",
    # Not scaled down at all: the closest that others know.
    "original": "high",
}
_PART_FIELDS = ("type", "cache_control", "prompt_cache_breakpoint")
_MESSAGE_FIELDS = ("role", "content")
# What answers hold besides what the model made; it comes back when a client sends an answer on as it is.
_ECHOED = ("annotations",)


def conversation(messages: list[dict[str, Any]]) -> tuple[Message, ...]:
    """Return the turns; raises InvalidRequest, by name, for what the neutral model cannot express."""
    turns: list[Message] = []
    names: dict[str, str] = {}
    results: list[Part] = []
    for i, message in enumerate(messages):
        where = f"messages[{i}]."
        role = message.get("role")
        if role == "tool":
            # The results of one turn's calls belong together, as most vendors want them.
            results.append(_tool_result(message, names, where))
            continue
        if results:
            turns.append(Message("user", tuple(results)))
            results = []
        turns.append(_turn(role, message, names, where))
    if results:
        turns.append(Message("user", tuple(results)))
    return tuple(turns)


def _turn(role: Any, message: dict[str, Any], names: dict[str, str], where: str) -> Message:
    if role == "assistant":
        return _assistant(message, names, where)
    if role in ("system", "developer"):
        only_known(message, _MESSAGE_FIELDS, where)
        return Message("system", _content(message, where, ("text",)))
    if role == "user":
        only_known(message, _MESSAGE_FIELDS, where)
        return Message("user", _content(message, where, ("text", "image_url", "input_audio", "file")))
    raise InvalidRequest(f"{where}role: expected one of system, developer, user, assistant, tool")


def _content(message: dict[str, Any], where: str, kinds: tuple[str, ...]) -> str | tuple[Text | Media, ...]:
    content = message.get("content")
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not content:
        raise InvalidRequest(f"{where}content: expected a string or a list of parts")
    parts = objects(message, "content", where)
    return tuple(_part(part, f"{where}content[{j}].", kinds) for j, part in enumerate(parts))


def _part(part: dict[str, Any], where: str, kinds: tuple[str, ...]) -> Text | Media:
    kind = part.get("type")
    if kind not in kinds:
        raise InvalidRequest(f"{where}type: expected one of {', '.join(kinds)} here")
    only_known(part, (*_PART_FIELDS, kind), where)
    mark = cache_mark(part, where)
    if kind in {"text", "refusal"}:
        said = text(part, kind, where)
        if said is None:
            raise InvalidRequest(f"{where}{kind}: is required")
        return Text(said, mark)
    inside = f"{where}{kind}."
    described = an_object(part.get(kind), f"{where}{kind}")
    if kind == "image_url":
        return _image(described, inside, mark)
    return _audio(described, inside, mark) if kind == "input_audio" else _file(described, inside, mark)


def _image(image: dict[str, Any], where: str, mark: CacheMark | None) -> Media:
    only_known(image, ("url", "detail"), where)
    url = required_text(image, "url", where)
    detail = text(image, "detail", where)
    if detail not in _DETAILS:
        raise InvalidRequest(f"{where}detail: expected one of low, high, auto, original")
    if url.startswith(("https://", "http://")):
        return Media("image", url=url, detail=_DETAILS[detail], cache=mark)
    media_type, data = _data_url(url, f"{where}url")
    return Media("image", media_type, data, detail=_DETAILS[detail], cache=mark)


def _audio(audio: dict[str, Any], where: str, mark: CacheMark | None) -> Media:
    only_known(audio, ("data", "format"), where)
    name = required_text(audio, "format", where)
    if name not in {"wav", "mp3"}:
        raise InvalidRequest(f"{where}format: expected wav or mp3")
    return Media("audio", f"audio/{name}", required_text(audio, "data", where), cache=mark)


def _file(file: dict[str, Any], where: str, mark: CacheMark | None) -> Media:
    if file.get("file_id") is not None:
        raise InvalidRequest(f"{where}file_id: the model's provider does not have this file; send it in file_data")
    only_known(file, ("file_data", "filename"), where)
    name = text(file, "filename", where)
    data = required_text(file, "file_data", where)
    if data.startswith("data:"):
        media_type, data = _data_url(data, f"{where}file_data")
    else:
        guessed = mimetypes.guess_type(name or "")[0]
        if guessed is None:
            raise InvalidRequest(f"{where}file_data: expected a data: URL, which tells what kind of file it is")
        media_type = guessed
    return Media(_kind(media_type), media_type, data, name=name, cache=mark)


def _kind(media_type: str) -> Literal["image", "document", "audio"]:
    if media_type.startswith("image/"):
        return "image"
    return "audio" if media_type.startswith("audio/") else "document"


def _data_url(url: str, where: str) -> tuple[str, str]:
    match = _DATA_URL.match(url)
    if match is None:
        raise InvalidRequest(f"{where}: expected an http: or https: address, or a data: URL in base64")
    return match["type"].lower(), url[match.end() :]


def _assistant(message: dict[str, Any], names: dict[str, str], where: str) -> Message:
    known = (*_MESSAGE_FIELDS, *_ECHOED, "refusal", "reasoning_content", "thinking_blocks", "tool_calls")
    only_known(message, known, where)
    calls = [
        _tool_call(call, f"{where}tool_calls[{j}].") for j, call in enumerate(objects(message, "tool_calls", where))
    ]
    names.update((call.id, call.name) for call in calls)
    thoughts = _thoughts(message, where)
    refusal = text(message, "refusal", where)
    said: str | tuple[Text | Media, ...] = ()
    if message.get("content") is not None:
        said = _content(message, where, ("text", "refusal"))
    elif refusal:
        said = refusal
    elif not calls:
        raise InvalidRequest(f"{where}content: is required, as the message calls no tools")
    if isinstance(said, str):
        if not calls and not thoughts:
            return Message("assistant", said)
        said = (Text(said),) if said else ()
    return Message("assistant", (*thoughts, *said, *calls))


def _thoughts(message: dict[str, Any], where: str) -> list[Thinking]:
    """Return what was thought: blocks with their signatures, where the client sends them back, or the bare text."""
    thoughts = []
    for j, block in enumerate(objects(message, "thinking_blocks", where)):
        inside = f"{where}thinking_blocks[{j}]."
        only_known(block, ("type", "index", "thinking", "signature", "data"), inside)
        if block.get("type") == "redacted_thinking":
            thoughts.append(Thinking("", redacted=required_text(block, "data", inside)))
        else:
            thoughts.append(Thinking(text(block, "thinking", inside) or "", text(block, "signature", inside)))
    thought = text(message, "reasoning_content", where)
    return thoughts or ([Thinking(thought)] if thought else [])


def _tool_call(call: dict[str, Any], where: str) -> ToolCall:
    if call.get("type", "function") != "function":
        raise InvalidRequest(f"{where}type: only calls of type function can be translated for the model's provider")
    only_known(call, ("id", "type", "index", "function", "extra_content"), where)
    function = an_object(call.get("function"), f"{where}function")
    only_known(function, ("name", "arguments"), f"{where}function.")
    arguments = text(function, "arguments", f"{where}function.") or "{}"
    if not _is_json_object(arguments):
        raise InvalidRequest(f"{where}function.arguments: expected a JSON object, as text")
    return ToolCall(
        id=required_text(call, "id", where),
        name=required_text(function, "name", f"{where}function."),
        arguments=arguments,
        signature=_signature(call, where),
    )


def _signature(call: dict[str, Any], where: str) -> str | None:
    """Return Google's thought signature, in the place that Google's own compatible API gives it."""
    extra = optional_object(call, "extra_content", where) or {}
    google = optional_object(extra, "google", f"{where}extra_content.") or {}
    return text(google, "thought_signature", f"{where}extra_content.google.")


def _is_json_object(arguments: str) -> bool:
    try:
        return isinstance(msgspec.json.decode(arguments), dict)
    except (msgspec.DecodeError, RecursionError, UnicodeEncodeError):
        return False


def _tool_result(message: dict[str, Any], names: dict[str, str], where: str) -> ToolResult:
    only_known(message, (*_MESSAGE_FIELDS, "tool_call_id", "name"), where)
    call_id = required_text(message, "tool_call_id", where)
    content = _content(message, where, ("text", "image_url", "file"))
    parts = (Text(content),) if isinstance(content, str) else content
    return ToolResult(call_id, names.get(call_id) or text(message, "name", where) or "", parts)

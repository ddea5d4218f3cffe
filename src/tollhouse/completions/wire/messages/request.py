"""A request of the Messages API, read in full for a provider of another format."""

from base64 import b64encode
from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec

from tollhouse.completions.wire.base import Asked, only_known
from tollhouse.errors import InvalidRequest
from tollhouse.providers.anthropic.foreign import MARK, call_signature
from tollhouse.providers.conversation import (
    CacheMark,
    Media,
    Message,
    Part,
    ProviderRequest,
    Reasoning,
    Role,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)

_FIELDS = (
    "model",
    "max_tokens",
    "messages",
    "stream",
    "system",
    "metadata",
    "temperature",
    "top_p",
    "top_k",
    "stop_sequences",
    "tools",
    "tool_choice",
    "thinking",
    "output_config",
    # A mark on whatever comes last, and a hint as all marks are.
    "cache_control",
    # read() lets no other speed than the ordinary pass.
    "speed",
)
_ROLES: dict[Any, Role] = {"user": "user", "assistant": "assistant", "system": "system"}
_EFFORTS: tuple[Literal["low", "medium", "high", "xhigh", "max"], ...] = ("low", "medium", "high", "xhigh", "max")
_CHOICES: dict[Any, Literal["auto", "none", "required", "named"]] = {
    "auto": "auto",
    "any": "required",
    "tool": "named",
    "none": "none",
}
_DIRECT = {"type": "direct"}
_NO_THINKING = Thinking("")
"""What is left of thinking whose text is not shown, where its proof is of no use."""

_encode = msgspec.json.Encoder().encode

_Object = dict[str, Any]


def translate(asked: Asked, max_tokens: int) -> ProviderRequest:
    """Return the whole request; raises InvalidRequest by name for what no other vendor's format can say."""
    body = asked.body
    only_known(body, _FIELDS)
    only_known(an_object(body.get("metadata") or {}, "metadata"), ("user_id",), "metadata.")
    if max_tokens < 1:
        raise InvalidRequest("max_tokens: expected at least 1")
    schema, effort = _output_config(body.get("output_config"))
    choice, allows_parallel_calls = _tool_choice(body.get("tool_choice"))
    top_k = body.get("top_k")
    return ProviderRequest(
        model=asked.model,
        messages=(*_system(body.get("system")), *_messages(body["messages"])),
        max_tokens=max_tokens,
        temperature=_fraction(body.get("temperature"), "temperature"),
        stop=tuple(
            a_text(each, f"stop_sequences[{index}]")
            for index, each in enumerate(a_list(body.get("stop_sequences"), "stop_sequences"))
        ),
        response_schema=schema,
        tools=tuple(_tool(tool, f"tools[{index}]") for index, tool in enumerate(a_list(body.get("tools"), "tools"))),
        tool_choice=choice,
        allows_parallel_calls=allows_parallel_calls,
        reasoning=_reasoning(body.get("thinking"), effort),
        top_p=_fraction(body.get("top_p"), "top_p"),
        top_k=None if top_k is None else a_whole_number(top_k, "top_k", 0, 1_000_000),
        user=asked.user,
        stream=asked.is_stream,
    )


def an_object(value: Any, where: str) -> _Object:
    """Return a JSON object; raises InvalidRequest where a value is none."""
    if not isinstance(value, dict):
        raise InvalidRequest(f"{where}: expected an object")
    return value


def a_list(value: Any, where: str) -> list[Any]:
    """Return a list, empty for null; raises InvalidRequest where a value is neither."""
    if value is None:
        return []
    if not isinstance(value, list):
        raise InvalidRequest(f"{where}: expected a list")
    return value


def a_text(value: Any, where: str) -> str:
    """Return a text; raises InvalidRequest where a value is none."""
    if not isinstance(value, str):
        raise InvalidRequest(f"{where}: expected a string")
    return value


def a_whole_number(value: Any, where: str, least: int, most: int) -> int:
    """Return a whole number within its bounds; raises InvalidRequest where a value is none."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise InvalidRequest(f"{where}: expected a whole number from {least} to {most}")
    return value


def a_flag(value: Any, where: str) -> bool | None:
    """Return a boolean or null; raises InvalidRequest where a value is neither."""
    if value is not None and not isinstance(value, bool):
        raise InvalidRequest(f"{where}: expected true or false")
    return value


def _fraction(value: Any, where: str) -> float | None:
    if value is None:
        return None
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 1:
        raise InvalidRequest(f"{where}: expected a number from 0 to 1")
    return float(value)


def _untranslatable(where: str, what: str) -> InvalidRequest:
    return InvalidRequest(f"{where}: {what} cannot be translated for the model's provider, which speaks another format")


def _kind(value: _Object, where: str) -> str:
    """Return an object's type in a form that is fit to be repeated in a message."""
    return a_text(value.get("type"), f"{where}.type")


def _shown(text: str) -> str:
    return repr(text[:64]) if text.isprintable() else "this"


def _refuse_kind(kind: str, where: str) -> InvalidRequest:
    return _untranslatable(f"{where}.type", _shown(kind))


def _system(system: Any) -> tuple[Message, ...]:
    if not system:
        return ()
    return (Message("system", _content(system, "system", "system", {})),)


def _messages(messages: list[Any]) -> list[Message]:
    turns = []
    # The names of the tools that were called, by the calls' ids: results do not repeat them.
    names: dict[str, str] = {}
    for index, sent in enumerate(messages):
        where = f"messages[{index}]"
        message = an_object(sent, where)
        only_known(message, ("role", "content"), f"{where}.")
        role = message.get("role")
        if not isinstance(role, str) or role not in _ROLES:
            raise InvalidRequest(f"{where}.role: expected user, assistant or system")
        content = _content(message.get("content"), f"{where}.content", _ROLES[role], names)
        if content or role != "assistant":
            turns.append(Message(_ROLES[role], content))
    return turns


def _content(content: Any, where: str, role: Role, names: dict[str, str]) -> str | tuple[Part, ...]:
    if isinstance(content, str):
        return content
    if not isinstance(content, list) or not (content or role == "assistant"):
        raise InvalidRequest(f"{where}: expected a string or a list of blocks")
    parts: list[Part] = []
    signatures: dict[str, str] = {}
    for index, sent in enumerate(content):
        at = f"{where}[{index}]"
        block = an_object(sent, at)
        kind = _kind(block, at)
        read = _READERS[role].get(kind)
        if read is None:
            raise _refuse_kind(kind, at)
        if kind == "redacted_thinking" and (carried := call_signature(a_text(block.get("data"), f"{at}.data"))):
            signatures[carried[0]] = carried[1]
            continue
        part = read(block, at)
        if part == _NO_THINKING:
            continue
        match part:
            case ToolCall():
                names[part.id] = part.name
            case ToolResult():
                part = msgspec.structs.replace(part, name=names.get(part.call_id, ""))
        parts.append(part)
    if signatures:
        parts = [_signed(part, signatures) for part in parts]
    return tuple(parts)


def _signed(part: Part, signatures: Mapping[str, str]) -> Part:
    if isinstance(part, ToolCall) and part.id in signatures:
        return msgspec.structs.replace(part, signature=signatures[part.id])
    return part


def _known(block: _Object, known: tuple[str, ...], where: str) -> None:
    """Refuse a block's unknown fields, but for those that say nothing: null, false, and nothing in a list."""
    said = {name: value for name, value in block.items() if value is not False and value not in ([], {})}
    only_known(said, known, f"{where}.")


def _cache(block: _Object, where: str) -> CacheMark | None:
    mark = block.get("cache_control")
    if mark is None:
        return None
    ttl = an_object(mark, f"{where}.cache_control").get("ttl")
    if ttl is None or ttl == "5m":
        return "5m"
    if ttl == "1h":
        return "1h"
    raise InvalidRequest(f"{where}.cache_control.ttl: expected 5m or 1h")


def _text(block: _Object, where: str) -> Text:
    _known(block, ("type", "text", "cache_control"), where)
    return Text(a_text(block.get("text"), f"{where}.text"), _cache(block, where))


def _image(block: _Object, where: str) -> Media:
    _known(block, ("type", "source", "cache_control"), where)
    media_type, data, url = _source(block, where)
    return Media("image", media_type=media_type, base64=data, url=url, cache=_cache(block, where))


def _document(block: _Object, where: str) -> Media:
    citations = block.get("citations")
    says_nothing = isinstance(citations, dict) and citations.get("enabled") in (None, False)
    known = ("type", "source", "title", "cache_control", *(("citations",) if says_nothing else ()))
    _known(block, known, where)
    title = block.get("title")
    media_type, data, url = _source(block, where)
    return Media(
        "document",
        media_type=media_type,
        base64=data,
        url=url,
        name=None if title is None else a_text(title, f"{where}.title"),
        cache=_cache(block, where),
    )


def _source(block: _Object, where: str) -> tuple[str | None, str | None, str | None]:
    """Return the media type, the data in base64 and the address of an image or a document."""
    where = f"{where}.source"
    source = an_object(block.get("source"), where)
    kind = _kind(source, where)
    if kind == "url":
        _known(source, ("type", "url"), where)
        return None, None, a_text(source.get("url"), f"{where}.url")
    if kind not in {"base64", "text"}:
        raise _refuse_kind(kind, where)
    _known(source, ("type", "media_type", "data"), where)
    data = a_text(source.get("data"), f"{where}.data")
    if kind == "text":
        data = b64encode(data.encode()).decode()
    return a_text(source.get("media_type"), f"{where}.media_type"), data, None


def _tool_use(block: _Object, where: str) -> ToolCall:
    known = ("type", "id", "name", "input", "cache_control", *(("caller",) if block.get("caller") == _DIRECT else ()))
    _known(block, known, where)
    return ToolCall(
        id=a_text(block.get("id"), f"{where}.id"),
        name=a_text(block.get("name"), f"{where}.name"),
        arguments=_arguments(block.get("input"), f"{where}.input"),
        cache=_cache(block, where),
    )


def _arguments(value: Any, where: str) -> str:
    try:
        return _encode(an_object(value, where)).decode()
    except RecursionError:
        raise InvalidRequest(f"{where}: nested too deeply") from None


def _tool_result(block: _Object, where: str) -> ToolResult:
    _known(block, ("type", "tool_use_id", "content", "is_error", "cache_control"), where)
    sent = block.get("content")
    if isinstance(sent, str):
        content: tuple[Text | Media, ...] = (Text(sent),)
    else:
        content = tuple(
            _result_part(each, f"{where}.content[{index}]")
            for index, each in enumerate(a_list(sent, f"{where}.content"))
        )
    return ToolResult(
        call_id=a_text(block.get("tool_use_id"), f"{where}.tool_use_id"),
        name="",
        content=content,
        is_error=a_flag(block.get("is_error"), f"{where}.is_error") or False,
        cache=_cache(block, where),
    )


def _result_part(sent: Any, where: str) -> Text | Media:
    block = an_object(sent, where)
    match _kind(block, where):
        case "text":
            return _text(block, where)
        case "image":
            return _image(block, where)
        case "document":
            return _document(block, where)
        case kind:
            raise _refuse_kind(kind, where)


def _thinking(block: _Object, where: str) -> Thinking:
    _known(block, ("type", "thinking", "signature"), where)
    text = a_text(block.get("thinking"), f"{where}.thinking")
    return Thinking(text, signature=_foreign(a_text(block.get("signature") or "", f"{where}.signature")))


def _redacted_thinking(block: _Object, where: str) -> Thinking:
    _known(block, ("type", "data"), where)
    return Thinking("", redacted=_foreign(a_text(block.get("data"), f"{where}.data")))


def _foreign(proof: str) -> str | None:
    # A request that is translated goes to another vendor: what Anthropic signed is of no use there.
    return proof.removeprefix(MARK) or None if proof.startswith(MARK) else None


_READERS: dict[Role, dict[str, Callable[[_Object, str], Part]]] = {
    "system": {"text": _text},
    "user": {"text": _text, "image": _image, "document": _document, "tool_result": _tool_result},
    "assistant": {
        "text": _text,
        "tool_use": _tool_use,
        "thinking": _thinking,
        "redacted_thinking": _redacted_thinking,
    },
}


def _tool(sent: Any, where: str) -> Tool:
    tool = an_object(sent, where)
    kind = tool.get("type")
    if kind not in (None, "custom"):
        raise _refuse_kind(_kind(tool, where), where)
    # Streaming arguments eagerly or not is a matter of time, not of what they say.
    known = ("type", "name", "description", "input_schema", "strict", "cache_control", "eager_input_streaming")
    _known(tool, (*known, *(("allowed_callers",) if tool.get("allowed_callers") == ["direct"] else ())), where)
    description = tool.get("description")
    return Tool(
        name=a_text(tool.get("name"), f"{where}.name"),
        description=None if description is None else a_text(description, f"{where}.description"),
        parameters=an_object(tool.get("input_schema"), f"{where}.input_schema"),
        is_strict=a_flag(tool.get("strict"), f"{where}.strict"),
        cache=_cache(tool, where),
    )


def _tool_choice(sent: Any) -> tuple[ToolChoice | None, bool | None]:
    """Return which tool is to be called, and whether several may be."""
    if sent is None:
        return None, None
    choice = an_object(sent, "tool_choice")
    only_known(choice, ("type", "name", "disable_parallel_tool_use"), "tool_choice.")
    kind = _kind(choice, "tool_choice")
    if kind not in _CHOICES:
        raise InvalidRequest("tool_choice.type: expected auto, any, tool or none")
    name = a_text(choice.get("name"), "tool_choice.name") if kind == "tool" else ""
    is_single = a_flag(choice.get("disable_parallel_tool_use"), "tool_choice.disable_parallel_tool_use")
    return ToolChoice(_CHOICES[kind], name), None if is_single is None else not is_single


def _output_config(
    sent: Any,
) -> tuple[_Object | None, Literal["low", "medium", "high", "xhigh", "max"] | None]:
    """Return the schema that the answer has to follow, and the effort to be made."""
    if sent is None:
        return None, None
    config = an_object(sent, "output_config")
    only_known(config, ("format", "effort"), "output_config.")
    effort = config.get("effort")
    if effort is not None and effort not in _EFFORTS:
        raise InvalidRequest(f"output_config.effort: expected one of {', '.join(_EFFORTS)}")
    if config.get("format") is None:
        return None, effort
    where = "output_config.format"
    described = an_object(config["format"], where)
    only_known(described, ("type", "schema"), f"{where}.")
    if (kind := _kind(described, where)) != "json_schema":
        raise _refuse_kind(kind, where)
    return an_object(described.get("schema"), f"{where}.schema"), effort


def _reasoning(sent: Any, effort: Literal["low", "medium", "high", "xhigh", "max"] | None) -> Reasoning | None:
    """Return how much is to be thought: by the effort, where there is one, as that is what most vendors know."""
    if sent is None:
        return None if effort is None else Reasoning(effort=effort)
    thinking = an_object(sent, "thinking")
    # Whether thinking is shown changes nothing about it; other vendors show what they show.
    only_known(thinking, ("type", "budget_tokens", "display"), "thinking.")
    match _kind(thinking, "thinking"):
        case "disabled" if effort is None:
            return Reasoning(effort="none")
        case "disabled":
            raise _untranslatable("output_config.effort", "an effort without thinking")
        case "adaptive":
            # Without a word about effort it is high, says the vendor.
            return Reasoning(effort=effort or "high")
        case "enabled":
            budget = a_whole_number(thinking.get("budget_tokens"), "thinking.budget_tokens", 1, 10_000_000)
            return Reasoning(budget_tokens=budget) if effort is None else Reasoning(effort=effort)
        case kind:
            raise _refuse_kind(kind, "thinking")

"""What the vendors' own clients can send, field by field, from the types that their SDKs have for it.

A *case* is a field in one request: the smallest request it can stand in, once without it and once with it.
"""

import types
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import Enum
from typing import Annotated, Any, Literal, NotRequired, Required, Union, get_args, get_origin

import msgspec
from anthropic.types import message_create_params as messages
from openai.types.chat import completion_create_params as chat
from openai.types.responses import response_create_params as responses
from pydantic import BaseModel
from typing_extensions import get_type_hints, is_typeddict

with warnings.catch_warnings():
    # Its descriptions hold escapes that Python warns of when it compiles them, and its types are old in places.
    warnings.simplefilter("ignore")
    from google.genai import types as gemini

_LISTS = (list, tuple, Iterable, Sequence)
_DEEPEST = 9
# What is to stand in fields of these names, so that nothing is refused for a value that nobody would send.
_SAMPLES: dict[str, Any] = {
    **dict.fromkeys(("url", "image_url"), "data:image/png;base64,aWk="),
    "file_data": "data:application/pdf;base64,aWk=",
    "data": "aWk=",
    "thoughtSignature": "c2ln",
    "file_url": "https://example.com/a.pdf",
    "fileUri": "https://example.com/a.png",
    "mimeType": "image/png",
    "responseMimeType": "application/json",
    **dict.fromkeys(("id", "call_id", "tool_call_id", "tool_use_id"), "c1"),
    "name": "f",
    "model": "m",
    "arguments": "{}",
    "input": {"a": 1},
    "budget_tokens": 2048,
    **{name: {"type": "object"} for name in ("schema", "parameters", "input_schema")},
    **{name: {"type": "object"} for name in ("responseJsonSchema", "parametersJsonSchema")},
    "responseSchema": {"type": "OBJECT"},
}


class Case(msgspec.Struct, frozen=True):
    """A field in a request.

    Attributes:
        path: where it stands, with the kinds of the objects on the way: ``input[]<user>.content[]<input_text>.text``.
        value: what it says; None for what is added to a list.
    """

    path: str
    value: Any
    without: dict[str, Any]
    with_it: dict[str, Any]


def cases(client: str) -> Iterator[Case]:
    """Return every field of a client's requests."""
    match client:
        case "chat":
            yield from _of(chat.CompletionCreateParamsNonStreaming)
        case "responses":
            yield from _of(responses.ResponseCreateParamsNonStreaming)
        case "messages":
            yield from _of(messages.MessageCreateParamsNonStreaming)
        case "gemini":
            # The SDK has types for the parts of a request, and none for the whole of it.
            parts: dict[str, Any] = {
                "contents": list[gemini.Content],
                "systemInstruction": gemini.Content,
                "tools": list[gemini.Tool],
                "toolConfig": gemini.ToolConfig,
                "generationConfig": gemini.GenerationConfig,
                "safetySettings": list[gemini.SafetySetting],
            }
            for name, kind in parts.items():
                for path, value, without, with_it in _within(kind, name):
                    yield Case(name + path, value, {name: without}, {name: with_it})
            others = {"cachedContent": "x", "labels": {"a": "b"}, "serviceTier": "flex", "store": True}
            for name, said in others.items():
                yield Case(name, said, {}, {name: said})


def _of(request: Any) -> Iterator[Case]:
    for name, (kind, is_required) in _fields(request).items():
        if not is_required:
            for said, suffix in _values(kind, name):
                yield Case(name + suffix, said, {}, {name: said})
        for path, value, without, with_it in _within(kind, name):
            yield Case(name + path, value, {name: without}, {name: with_it})


def _options(kind: Any) -> list[Any]:
    """Return the types that a field may have, null left out."""
    while (origin := get_origin(kind)) in (Required, NotRequired, Annotated):
        kind = get_args(kind)[0]
    if origin in (Union, types.UnionType):
        return [option for each in get_args(kind) for option in _options(each) if option is not type(None)]
    return [kind]


def _is_object(kind: Any) -> bool:
    return is_typeddict(kind) or (isinstance(kind, type) and issubclass(kind, BaseModel))


def _fields(kind: Any) -> dict[str, tuple[Any, bool]]:
    """Return an object's fields: the type, and whether it is required."""
    if not is_typeddict(kind):
        return {field.alias or name: (field.annotation, False) for name, field in kind.model_fields.items()}
    hints = get_type_hints(kind, include_extras=True)
    # Python 3.11 does not see what is required in annotations that are kept as text.
    return {
        name: (hint, _wrapped_in(hint) == Required or (kind.__total__ and _wrapped_in(hint) != NotRequired))
        for name, hint in hints.items()
    }


def _wrapped_in(hint: Any) -> Any:
    return get_origin(hint)


def _least(kind: Any, name: str = "") -> Any:
    """Return the smallest value of a type."""
    kind = _options(kind)[0]
    origin = get_origin(kind)
    if _is_object(kind):
        return {each: _least(of, each) for each, (of, is_required) in _fields(kind).items() if is_required}
    if name in _SAMPLES:
        return _SAMPLES[name]
    if origin is Literal:
        return get_args(kind)[0]
    if origin in _LISTS:
        return [_least(get_args(kind)[0], name)]
    if origin in (dict, Mapping):
        return {"k": _least(get_args(kind)[1])}
    if isinstance(kind, type) and issubclass(kind, Enum):
        return list(kind)[-1].value
    return {str: "x", bool: True, int: 1, float: 1.0}.get(kind, {"type": "object"})


def _kind_of(value: Any, kind: Any) -> str:
    """Return what an object calls itself."""
    return str(value.get("type") or value.get("role") or kind.__name__)


def _values(kind: Any, name: str) -> Iterator[tuple[Any, str]]:
    """Return what may stand in a field: the value, and what is added to the field's path for it."""
    for option in _options(kind):
        if _is_object(option):
            said = _least(option)
            yield said, f"<{_kind_of(said, option)}>"
        elif name in _SAMPLES:
            yield _SAMPLES[name], ""
        elif get_origin(option) is Literal:
            yield from ((word, "") for word in get_args(option))
        elif option is bool:
            yield from ((flag, "") for flag in (True, False))
        elif isinstance(option, type) and issubclass(option, Enum):
            yield from ((word.value, "") for word in option)
        else:
            yield _least(option, name), ""


def _within(kind: Any, name: str = "", above: tuple[Any, ...] = ()) -> Iterator[tuple[str, Any, Any, Any]]:
    """Return the fields within a value: path, value, and the smallest whole without and with it."""
    if len(above) > _DEEPEST:
        return
    for option in _options(kind):
        if _is_object(option):
            if option not in above:
                yield from _within_object(option, above)
        elif get_origin(option) in _LISTS:
            item = get_args(option)[0]
            for path, value, without, with_it in _within(item, name, above):
                yield f"[]{path}", value, [without], [with_it]
            least = _least(item, name)
            several = [each for each in _options(item) if _is_object(each)]
            for each in several if len(several) > 1 else ():
                added = _least(each)
                yield f"[]<{_kind_of(added, each)}>", None, [least], [least, added]


def _within_object(kind: Any, above: tuple[Any, ...]) -> Iterator[tuple[str, Any, Any, Any]]:
    least = _least(kind)
    of_kind = f"<{_kind_of(least, kind)}>"
    for name, (field, is_required) in _fields(kind).items():
        place = f"{of_kind}.{name}"
        if not is_required:
            for said, suffix in _values(field, name):
                yield place + suffix, said, least, {**least, name: said}
        for path, value, without, with_it in _within(field, name, (*above, kind)):
            yield place + path, value, {**least, name: without}, {**least, name: with_it}

"""From Google's contents to neutral turns (https://ai.google.dev/api/caching#Content)."""

import re
from collections.abc import Callable
from typing import Any, Literal

import msgspec

from tollhouse.completions.wire.gemini.fields import choice, items, known, required_text, text
from tollhouse.errors import InvalidRequest
from tollhouse.providers.conversation import Media, Message, Part, Text, Thinking, ToolCall, ToolResult
from tollhouse.providers.gemini.foreign import own_signature, thinking

Detail = Literal["low", "high", "auto"] | None
_BASE64 = re.compile(r"[A-Za-z0-9+/]*={0,2}")
_KINDS = ("text", "inlineData", "fileData", "functionCall", "functionResponse")
_SPEAKERS = {"functionCall": "assistant", "functionResponse": "user"}
_PART = (*_KINDS, "thought", "thoughtSignature", "mediaResolution")
RESOLUTIONS: dict[str, Detail] = {
    "MEDIA_RESOLUTION_UNSPECIFIED": None,
    "MEDIA_RESOLUTION_LOW": "low",
    "MEDIA_RESOLUTION_MEDIUM": "auto",
    "MEDIA_RESOLUTION_HIGH": "high",
    "MEDIA_RESOLUTION_ULTRA_HIGH": "high",
}


class _Turns:
    """Turns in the making, and which calls in them still wait for their results."""

    def __init__(self, detail: Detail) -> None:
        self.detail = detail
        self.done: list[Message] = []
        self._calls = 0
        self._ids: set[str] = set()
        self._made_up: set[str] = set()
        self._waiting: list[tuple[str, str]] = []

    def enter(self, role: str) -> None:
        """Begin a turn: what was asked for in an earlier turn of the model is no longer waited for in a new one."""
        if role == "assistant" and self.done and self.done[-1].role == "user":
            self._waiting.clear()

    def add(self, role: str, parts: list[Part]) -> None:
        """Add a turn; an answer that streamed is sent back in its pieces, which are one turn."""
        if self.done and self.done[-1].role == role == "assistant":
            parts = [*self.done.pop().parts, *parts]
        if role == "assistant":
            parts = _joined(parts)
        if parts:
            self.done.append(Message("assistant" if role == "assistant" else "user", tuple(parts)))

    def call(self, call_id: str | None, name: str) -> str:
        """Take note of a call, and return its id."""
        self._calls += 1
        if not call_id:
            call_id = f"call_{self._calls}"
            self._made_up.add(call_id)
        self._ids.add(call_id)
        self._waiting.append((call_id, name))
        return call_id

    def result(self, call_id: str | None, name: str, where: str) -> str:
        """Return the id of the call that a result belongs to: its own, or else that of the next waiting call by name.

        Calls and results have ids where the model gives them; even then, the Python SDK sends its own results without.
        """
        found = call_id if call_id and call_id in self._ids else None
        if found is None:
            waiting = (each for each, of in self._waiting if of == name and (not call_id or each in self._made_up))
            found = next(waiting, None)
        if found is None:
            raise InvalidRequest(f"{where}: no call comes before it that it could be the result of")
        self._waiting = [each for each in self._waiting if each[0] != found]
        return found


def messages(contents: Any, system: Any, detail: Detail) -> tuple[Message, ...]:
    """Translate a conversation.

    Args:
        contents: the turns.
        system: ``systemInstruction``, if there is one.
        detail: how closely images are to be looked at, where they do not say it themselves.

    Raises:
        InvalidRequest: by name, for what is malformed or cannot be translated.
    """
    turns = _Turns(detail)
    if system is not None:
        turns.done += _system(system)
    count = len(turns.done)
    for i, content in enumerate(items(contents, "contents")):
        where = f"contents[{i}]"
        fields = known(content, where, ("role", "parts"))
        role = "assistant" if _role(fields, where) == "model" else "user"
        turns.enter(role)
        parts = []
        for j, part in enumerate(items(fields.get("parts", []), f"{where}.parts")):
            read = _part(part, f"{where}.parts[{j}]", role, turns)
            if read is not None:
                parts.append(read)
        turns.add(role, parts)
    if len(turns.done) == count:
        raise InvalidRequest("contents: expected at least one turn with something in it")
    return tuple(turns.done)


def _role(fields: dict[str, Any], where: str) -> str:
    role = text(fields, "role", where) or "user"
    # Results of calls once had a role of their own.
    if role not in {"user", "model", "function"}:
        raise InvalidRequest(f"{where}.role: expected one of user, model")
    return role


def _system(system: Any) -> list[Message]:
    fields = known(system, "systemInstruction", ("role", "parts"))
    said = []
    for i, part in enumerate(items(fields.get("parts", []), "systemInstruction.parts")):
        where = f"systemInstruction.parts[{i}]"
        said.append(Text(text(known(part, where, ("text",)), "text", where) or ""))
    if not said:
        return []
    return [Message("system", said[0].text if len(said) == 1 else tuple(said))]


def _part(value: Any, where: str, role: str, turns: _Turns) -> Part | None:
    """Translate a part; None for what is of use to Google's models alone."""
    fields = known(value, where, _PART)
    kinds = [kind for kind in _KINDS if kind in fields]
    signature = text(fields, "thoughtSignature", where)
    if len(kinds) > 1 or (not kinds and signature is None):
        raise InvalidRequest(f"{where}: expected one of {', '.join(_KINDS)}")
    if fields.get("thought"):
        if role != "assistant" or kinds not in ([], ["text"]):
            raise InvalidRequest(f"{where}.thought: expected a text, in a turn of the model")
        return thinking(text(fields, "text", where) or "", signature)
    if not kinds:
        return None
    kind = kinds[0]
    if _SPEAKERS.get(kind, role) != role:
        raise InvalidRequest(f"{where}.{kind}: expected in a turn of the {'user' if role == 'assistant' else 'model'}")
    return _READERS[kind](fields, where, turns)


def _text(fields: dict[str, Any], where: str, _: _Turns) -> Part:
    return Text(text(fields, "text", where) or "")


def _call(fields: dict[str, Any], where: str, turns: _Turns) -> Part:
    signature = text(fields, "thoughtSignature", where)
    where += ".functionCall"
    call = known(fields["functionCall"], where, ("id", "name", "args"))
    name = required_text(call, "name", where)
    arguments = call.get("args", {})
    if not isinstance(arguments, dict):
        raise InvalidRequest(f"{where}.args: expected an object")
    return ToolCall(
        id=turns.call(text(call, "id", where), name),
        name=name,
        arguments=_json(arguments, f"{where}.args"),
        signature=None if signature is None else own_signature(signature),
    )


def _result(fields: dict[str, Any], where: str, turns: _Turns) -> Part:
    where += ".functionResponse"
    result = known(fields["functionResponse"], where, ("id", "name", "response", "parts"))
    name = required_text(result, "name", where)
    response = result.get("response", {})
    if not isinstance(response, dict):
        raise InvalidRequest(f"{where}.response: expected an object")
    shown = []
    for i, part in enumerate(items(result.get("parts", []), f"{where}.parts")):
        within = f"{where}.parts[{i}]"
        media = known(part, within, ("inlineData", "fileData"))
        if len(media) != 1:
            raise InvalidRequest(f"{within}: expected one of inlineData, fileData")
        shown.append((_inline if "inlineData" in media else _file)(media, within, turns))
    said, is_error = _said(response, f"{where}.response")
    call_id = turns.result(text(result, "id", where), name, where)
    return ToolResult(call_id, name, (Text(said), *shown), is_error=is_error)


def _said(response: dict[str, Any], where: str) -> tuple[str, bool]:
    """Return what a tool said, and whether it failed: Google's words for either are ``output`` and ``error``."""
    if len(response) == 1:
        name, value = next(iter(response.items()))
        if name in {"output", "result", "error"}:
            return value if isinstance(value, str) else _json(value, where), name == "error"
    return _json(response, where), False


def _json(value: Any, where: str) -> str:
    try:
        return msgspec.json.encode(value).decode()
    except (OverflowError, RecursionError):
        raise InvalidRequest(f"{where}: holds a number beyond 64 bits") from None


def _inline(fields: dict[str, Any], where: str, turns: _Turns) -> Media:
    detail = _detail(fields, where, turns)
    where += ".inlineData"
    blob = known(fields["inlineData"], where, ("mimeType", "data", "displayName"))
    mime = required_text(blob, "mimeType", where)
    # Google's SDKs write the alphabet for URLs; most others read the standard one only.
    data = required_text(blob, "data", where).replace("-", "+").replace("_", "/").rstrip("=")
    data += "=" * (-len(data) % 4)
    if len(data) % 4 or not _BASE64.fullmatch(data):
        raise InvalidRequest(f"{where}.data: expected base64")
    name = text(blob, "displayName", where)
    return Media(_kind(mime, where), media_type=mime, base64=data, name=name, detail=detail)


def _file(fields: dict[str, Any], where: str, turns: _Turns) -> Media:
    detail = _detail(fields, where, turns)
    where += ".fileData"
    file = known(fields["fileData"], where, ("mimeType", "fileUri", "displayName"))
    uri = required_text(file, "fileUri", where)
    if not uri.startswith(("https://", "http://")) or "://generativelanguage.googleapis.com/" in uri:
        raise InvalidRequest(f"{where}.fileUri: a file kept at Google cannot be read by the model's provider")
    mime = required_text(file, "mimeType", where)
    name = text(file, "displayName", where)
    return Media(_kind(mime, where), media_type=mime, url=uri, name=name, detail=detail)


def _kind(mime: str, where: str) -> Literal["image", "audio", "document"]:
    match mime.partition("/")[0].lower():
        case "video":
            raise InvalidRequest(f"{where}.mimeType: video cannot be translated for the model's provider")
        case "image":
            return "image"
        case "audio":
            return "audio"
    return "document"


def _detail(fields: dict[str, Any], where: str, turns: _Turns) -> Detail:
    if "mediaResolution" not in fields:
        return turns.detail
    where += ".mediaResolution"
    resolution = known(fields["mediaResolution"], where, ("level",))
    level = choice(resolution, "level", where, RESOLUTIONS)
    return turns.detail if level is None else RESOLUTIONS[level]


def _joined(parts: list[Part]) -> list[Part]:
    """Return a model's parts with the pieces of a stream put together again, and without what says nothing."""
    found: list[Part] = []
    for part in parts:
        last = found[-1] if found else None
        if isinstance(part, Thinking) and not (part.text or part.signature or part.redacted):
            continue
        if isinstance(part, Text):
            if not part.text:
                continue
            if isinstance(last, Text):
                found[-1] = Text(last.text + part.text)
                continue
        is_open = isinstance(last, Thinking) and last.signature is None and last.redacted is None
        if isinstance(part, Thinking) and isinstance(last, Thinking) and is_open and part.redacted is None:
            found[-1] = Thinking(last.text + part.text, signature=part.signature)
            continue
        found.append(part)
    return found


_READERS: dict[str, Callable[[dict[str, Any], str, _Turns], Part]] = {
    "text": _text,
    "inlineData": _inline,
    "fileData": _file,
    "functionCall": _call,
    "functionResponse": _result,
}

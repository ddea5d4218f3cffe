"""Reading the parts of an input item into the neutral model."""

import mimetypes
import re
from typing import Any, Literal

from tollhouse.completions.wire.base import only_known
from tollhouse.completions.wire.fields import an_object, required_text, text
from tollhouse.errors import InvalidRequest
from tollhouse.providers.conversation import Media, Text

_DATA_URL = re.compile(r"data:(?P<type>[\w.+-]+/[\w.+-]+)(;[\w-]+=[^;,]*)*;base64,", re.ASCII | re.IGNORECASE)
_WEB = ("https://", "http://")
_DETAILS: dict[str | None, Literal["low", "high", "auto"] | None] = {
    None: None,
    "low": "low",
    "high": "high",
    "auto": "auto",
    # Not scaled down at all: the closest that others know.
    "original": "high",
}
# A breakpoint says where the prompt's cached beginning ends: a hint, in a form that OpenAI alone has.
_PART_FIELDS = ("type", "prompt_cache_breakpoint")

USER_PARTS = ("input_text", "input_image", "input_file", "input_audio")
OUTPUT_PARTS = ("input_text", "input_image", "input_file")
ASSISTANT_PARTS = ("output_text", "refusal", "input_text")
SYSTEM_PARTS = ("input_text",)


def content(value: Any, kinds: tuple[str, ...], where: str) -> str | tuple[Text | Media, ...]:
    """Return a message's content or a tool's output.

    Args:
        value: a string, or a list of parts.
        kinds: the parts that may stand here.
        where: its path.
    """
    if isinstance(value, str):
        return value
    if not isinstance(value, list) or not value:
        raise InvalidRequest(f"{where}: expected a string, or a list of parts")
    return tuple(_part(an_object(part, f"{where}[{i}]"), kinds, f"{where}[{i}].") for i, part in enumerate(value))


def _part(part: dict[str, Any], kinds: tuple[str, ...], where: str) -> Text | Media:
    match part.get("type"):
        case "input_text" if "input_text" in kinds:
            only_known(part, (*_PART_FIELDS, "text"), where)
            return Text(_said(part, "text", where))
        case "output_text" if "output_text" in kinds:
            # What an answer holds besides its text comes back when a client sends it on as it is.
            only_known(part, (*_PART_FIELDS, "text", "annotations", "logprobs", "parsed"), where)
            return Text(_said(part, "text", where))
        case "refusal" if "refusal" in kinds:
            only_known(part, (*_PART_FIELDS, "refusal"), where)
            return Text(_said(part, "refusal", where))
        case "input_image" if "input_image" in kinds:
            return _image(part, where)
        case "input_file" if "input_file" in kinds:
            return _file(part, where)
        case "input_audio" if "input_audio" in kinds:
            return _audio(part, where)
    raise InvalidRequest(f"{where}type: expected one of {', '.join(kinds)}, which can be translated")


def _said(part: dict[str, Any], name: str, where: str) -> str:
    said = text(part, name, where)
    if said is None:
        raise InvalidRequest(f"{where}{name}: is required")
    return said


def _image(part: dict[str, Any], where: str) -> Media:
    _refuse_stored(part, where, "image_url")
    only_known(part, (*_PART_FIELDS, "image_url", "detail"), where)
    url = required_text(part, "image_url", where)
    detail = text(part, "detail", where)
    if detail not in _DETAILS:
        raise InvalidRequest(f"{where}detail: expected one of low, high, auto, original")
    if url.startswith(_WEB):
        return Media("image", url=url, detail=_DETAILS[detail])
    media_type, data = _data_url(url, f"{where}image_url")
    return Media("image", media_type, data, detail=_DETAILS[detail])


def _file(part: dict[str, Any], where: str) -> Media:
    _refuse_stored(part, where, "file_data")
    # How closely a document's pages are looked at is a hint.
    only_known(part, (*_PART_FIELDS, "file_data", "file_url", "filename", "detail"), where)
    name, url = text(part, "filename", where), text(part, "file_url", where)
    if url is not None:
        if part.get("file_data") is not None or not url.startswith(_WEB):
            raise InvalidRequest(f"{where}file_url: expected an http: or https: address, without file_data")
        media_type = _guessed(name or url.partition("?")[0])
        return Media(_kind(media_type), media_type, url=url, name=name)
    data = required_text(part, "file_data", where)
    if data.startswith("data:"):
        media_type, data = _data_url(data, f"{where}file_data")
    else:
        media_type = _guessed(name or "")
        if media_type is None:
            raise InvalidRequest(f"{where}file_data: expected a data: URL, which tells what kind of file it is")
    return Media(_kind(media_type), media_type, data, name=name)


def _audio(part: dict[str, Any], where: str) -> Media:
    only_known(part, (*_PART_FIELDS, "input_audio"), where)
    audio, inside = an_object(part.get("input_audio"), f"{where}input_audio"), f"{where}input_audio."
    only_known(audio, ("data", "format"), inside)
    name = required_text(audio, "format", inside)
    if name not in {"wav", "mp3"}:
        raise InvalidRequest(f"{inside}format: expected wav or mp3")
    return Media("audio", f"audio/{name}", required_text(audio, "data", inside))


def _refuse_stored(part: dict[str, Any], where: str, instead: str) -> None:
    if part.get("file_id") is not None:
        raise InvalidRequest(f"{where}file_id: the model's provider does not have this file; send it in {instead}")


def _guessed(name: str) -> str | None:
    # Of an address its last part alone: newer versions of Python raise at addresses that are malformed.
    return mimetypes.guess_type(name.rpartition("/")[2])[0]


def _kind(media_type: str | None) -> Literal["image", "document", "audio"]:
    family = (media_type or "").partition("/")[0]
    if family == "image":
        return "image"
    return "audio" if family == "audio" else "document"


def _data_url(url: str, where: str) -> tuple[str, str]:
    match = _DATA_URL.match(url)
    if match is None:
        raise InvalidRequest(f"{where}: expected an http: or https: address, or a data: URL in base64")
    return match["type"].lower(), url[match.end() :]

"""Pictures, recordings and documents as parts of a message in the chat completions format."""

import binascii
from base64 import b64decode
from typing import Any

from tollhouse.errors import InvalidRequest
from tollhouse.providers.conversation import Media

_AUDIO_FORMATS = {
    "audio/wav": "wav",
    "audio/wave": "wav",
    "audio/x-wav": "wav",
    "audio/mp3": "mp3",
    "audio/mpeg": "mp3",
}


def media_part(media: Media, where: str) -> dict[str, Any]:
    """Return the part of a message that a medium becomes; raises InvalidRequest, by name, where there is none.

    Args:
        media: what is to be shown to the model.
        where: the medium's place in the request, with which a refusal begins.
    """
    if media.kind == "image":
        return _image(media, where)
    if media.base64 is None:
        raise InvalidRequest(f"{where}.url: this model's provider takes {media.kind}s by their bytes only, in base64")
    if media.kind == "audio":
        return _audio(media.base64, media.media_type, where)
    return _document(media.base64, media, where)


def _image(media: Media, where: str) -> dict[str, Any]:
    if media.base64 is None:
        described = {"url": media.url or ""}
    elif media.media_type is None:
        raise InvalidRequest(f"{where}.media_type: is required with an image's bytes")
    else:
        described = {"url": f"data:{media.media_type};base64,{media.base64}"}
    if media.detail is not None:
        described["detail"] = media.detail
    return {"type": "image_url", "image_url": described}


def _audio(data: str, media_type: str | None, where: str) -> dict[str, Any]:
    name = _AUDIO_FORMATS.get(media_type or "")
    if name is None:
        raise InvalidRequest(f"{where}.media_type: this model's provider takes recordings as WAV or MP3 only")
    return {"type": "input_audio", "input_audio": {"data": data, "format": name}}


def _document(data: str, media: Media, where: str) -> dict[str, Any]:
    media_type = media.media_type or "application/pdf"
    if media_type.startswith("text/"):
        return {"type": "text", "text": _titled(_decoded(data, where), media.name)}
    file = {"filename": media.name or "document", "file_data": f"data:{media_type};base64,{data}"}
    return {"type": "file", "file": file}


def _decoded(data: str, where: str) -> str:
    """Return a document of plain text, which goes over as such: this format's files are those that need reading."""
    try:
        return b64decode(data, validate=True).decode()
    except (binascii.Error, ValueError):
        raise InvalidRequest(f"{where}.base64: expected text in UTF-8, encoded in base64") from None


def _titled(text: str, name: str | None) -> str:
    return f"{name}\n\n{text}" if name else text

"""Media within a request: what is no text in it, and how much of it there is.

Only where an API takes media is anything taken for them: elsewhere what looks the same is read as text, byte by byte.
"""

from base64 import b64decode
from collections.abc import Mapping
from typing import Any

# Sound has at most 32 tokens a second (Gemini; OpenAI has 10), and neither WAV nor MP3 makes a second from less than
# 512 bytes of base64.
_AUDIO_BYTES_PER_TOKEN = 16
_LEAST_BITS_PER_S = 384 * 8
# WAV's formats that have so many bits for each sample: PCM, floats, A-law, µ-law, and PCM of many channels.
_WAV_FIELDS = ((20, 22), (22, 24), (24, 28), (34, 36))
_PLAIN_WAV = frozenset({0x1, 0x3, 0x6, 0x7, 0xFFFE})
_REMOTE = frozenset({"file_id", "fileUri", "file_uri", "fileData", "file_data_uri", "cachedContent", "cached_content"})
_BASE64 = frozenset({"file_data", "fileData"})
_ADDRESSES = frozenset({"url", "uri", "image_url", "file_url", "video_url", "audio_url", "fileUri", "file_uri"})
# Where some servers take addresses, alone or in lists.
_BARE = frozenset({"image", "images", "video", "videos", "audio", "audios", *_ADDRESSES})
_MEANINGFUL = frozenset({"id", "data", *_REMOTE, *_BASE64, *_BARE})
_MEDIA_TYPES = ("media_type", "mimeType", "mime_type")
# What a tool was called with, and what a function returned, is whatever JSON the client likes; so is a schema.
_CALLS = frozenset({"functionCall", "function_call", "functionResponse", "function_response"})
_SCHEMAS = frozenset({"tools", "definition", "parameters", "parametersJsonSchema", "input_schema", "schema"})
_CALLED_WITH = frozenset({"input", *_SCHEMAS})
_ARGUMENTS = frozenset({"args", "response", *_SCHEMAS})


class Found:
    """Media found in a request."""

    __slots__ = ("audio_tokens", "encoded_bytes", "images", "is_unbounded")

    def __init__(self) -> None:
        self.encoded_bytes = 0
        self.audio_tokens = 0
        self.images = 0
        self.is_unbounded = False


def look_at(value: Any, name: str, found: Found) -> None:
    """Look for media; without recursion, as a request may be nested as deeply as it likes.

    Args:
        name: the key that the value stands under.
    """
    unseen: list[tuple[Any, str]] = [(value, name)]
    while unseen:
        value, name = unseen.pop()
        if isinstance(value, list):
            for each in value:
                if isinstance(each, dict | list):
                    unseen.append((each, name))
                elif isinstance(each, str) and name in _BARE:
                    found.is_unbounded = True
        elif isinstance(value, dict):
            for key, child in value.items():
                if isinstance(child, str):
                    if key in _MEANINGFUL:
                        _take(key, child, value, name, found)
                elif isinstance(child, dict | list) and key not in _free_form(value, name):
                    # Anthropic's parts say what they are one level above their source.
                    unseen.append((child, str(value.get("type")) if key == "source" else key))


def _free_form(value: Mapping[str, Any], name: str) -> frozenset[str]:
    """Return the keys of an object under which the client writes what it likes."""
    if name in _CALLS:
        return _ARGUMENTS
    kind = value.get("type")
    return _CALLED_WITH if isinstance(kind, str) and kind.endswith("tool_use") else _SCHEMAS


def _take(key: str, text: str, holder: Mapping[str, Any], name: str, found: Found) -> None:
    """Count a text of a part if it stands for media."""
    if key in _REMOTE or (key == "id" and name == "audio"):
        # An answer in sound is gone on from by its id.
        found.is_unbounded = found.is_unbounded or bool(text)
        return
    if key == "data":
        if holder.get("type") == "text" or not (any(each in holder for each in _MEDIA_TYPES) or "audio" in name):
            return
        _take_inline(text, _kind(holder, name), found)
    elif key in _BASE64 or (key in _ADDRESSES and text.startswith("data:")):
        _take_inline(text, _kind(holder, key if key in _ADDRESSES else name), found)
    elif key in _ADDRESSES:
        # An address of a recording does not tell how long it is.
        if _kind(holder, name if key in {"url", "uri"} else key) == "image":
            found.images += 1
        else:
            found.is_unbounded = True
    elif key in _BARE and text.startswith(("data:", "http:", "https:")):
        found.is_unbounded = True


def _kind(holder: Mapping[str, Any], name: str) -> str:
    """Return what a part with bytes or an address in it is of: image, audio or document."""
    media_types = [holder[each] for each in _MEDIA_TYPES if each in holder]
    if media_types:
        families = {each.partition("/")[0] if isinstance(each, str) else "" for each in media_types}
        family = families.pop() if len(families) == 1 else ""
        return family if family in {"image", "audio"} else "document"
    if "audio" in name:
        return "audio"
    return "image" if "image" in name or "image" in str(holder.get("type", "")) else "document"


def _take_inline(text: str, kind: str, found: Found) -> None:
    if not text:
        return
    found.encoded_bytes += len(text)
    encoded = text
    if text.startswith("data:"):
        told, _, encoded = text.partition(",")
        kind = told[len("data:") :].partition("/")[0]
    if kind == "image":
        found.images += 1
    elif kind == "audio" and _is_as_long_as_it_looks(encoded):
        found.audio_tokens += len(text) // _AUDIO_BYTES_PER_TOKEN
    else:
        found.is_unbounded = True


def _is_as_long_as_it_looks(encoded: str) -> bool:
    """Tell whether a recording's bytes bound its length: in MP3, and in WAV of no odd rate.

    Other codecs make silence of next to nothing: an hour of it in FLAC is as long as a minute's talk in MP3.
    """
    head = _bytes_at(encoded, 0, 44)
    if head.startswith(b"RIFF") and head[8:16] == b"WAVEfmt ":
        form, channels, rate, bits = (int.from_bytes(head[i:j], "little") for i, j in _WAV_FIELDS)
        return form in _PLAIN_WAV and channels * rate * bits >= _LEAST_BITS_PER_S
    if head.startswith(b"ID3"):
        # The tag's own length comes in four times seven bits.
        length = sum((each & 0x7F) << shift for each, shift in zip(head[6:10], (21, 14, 7, 0), strict=False))
        head = _bytes_at(encoded, 10 + length, 2)
    # Layer III: eleven bits that are set, any version, and 01.
    return len(head) > 1 and head[0] == 0xFF and head[1] & 0xE6 == 0xE2


def _bytes_at(encoded: str, start: int, count: int) -> bytes:
    """Return some bytes of what is encoded in base64; fewer or none where it has no more, or is none."""
    first = start // 3
    quads = encoded[first * 4 : (start + count + 2) // 3 * 4 + 4]
    try:
        decoded = b64decode(quads[: len(quads) // 4 * 4])
    except ValueError:
        return b""
    return decoded[start - first * 3 :][:count]

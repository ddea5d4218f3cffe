"""How much a request can take in, at most: the bound that its ceiling rests on."""

import re
from collections.abc import Mapping
from typing import Any

import msgspec

# What vendors wrap around a turn; measured overheads are below 10 tokens. What they put around the whole call is
# configured (input_overhead_tokens), since some servers' templates bring a system prompt of their own.
PER_MESSAGE_TOKENS = 16
# A schema or tools make some vendors add instructions of a few hundred tokens, and some write them out indented.
PER_SCHEMA_TOKENS = 1024
SCHEMA_EXPANSION = 2
# Sound has at most 32 tokens a second (Gemini; OpenAI has 10), and no codec in use makes a second from less than 512
# bytes of base64.
_AUDIO_BYTES_PER_TOKEN = 16
_SCHEMAS = ("tools", "functions", "response_format", "output_config", "text", "generationConfig", "toolConfig")
_TURNS = ("messages", "input", "contents", "requests")
_REMOTE = frozenset({"file_id", "fileUri", "file_uri", "fileData", "file_data_uri"})
_BASE64 = frozenset({"data", "file_data", "fileData"})


class Weight(msgspec.Struct, frozen=True, gc=False):
    """What a request can take in, at most.

    Attributes:
        text_tokens: of texts, schemas and what is wrapped around them.
        images: how many pictures there are.
        audio_tokens: of recordings.
        is_unbounded: it has documents, addresses or stored input whose size it does not show: no more than the
            model's whole context window then.
        max_searches: how often the provider may search, each time reading everything again with what was found.
    """

    text_tokens: int
    images: int = 0
    audio_tokens: int = 0
    is_unbounded: bool = False
    max_searches: int = 0


class _Found:
    """Media found in a request."""

    __slots__ = ("audio_bytes", "encoded_bytes", "images", "is_unbounded")

    def __init__(self) -> None:
        self.encoded_bytes = 0
        self.audio_bytes = 0
        self.images = 0
        self.is_unbounded = False


def weigh(body: Mapping[str, Any], body_bytes: int, *, max_searches: int = 0, reads_stored: bool = False) -> Weight:
    """Return what a request in any client's format can take in.

    A token of a byte-level tokenizer stands for at least one byte, and JSON has no fewer bytes than the texts in it;
    so there are at most as many tokens of text as the body has bytes, less those of media.

    Args:
        body: the request.
        body_bytes: its length as JSON.
    """
    found = _Found()
    for key, value in body.items():
        if isinstance(value, list | dict):
            _look_at(value, key, found)
    text_tokens = body_bytes - found.encoded_bytes
    for name in _TURNS:
        turns = body.get(name)
        if isinstance(turns, list):
            text_tokens += PER_MESSAGE_TOKENS * len(turns)
    schemas = [body[name] for name in _SCHEMAS if body.get(name)]
    if schemas:
        text_tokens += PER_SCHEMA_TOKENS + (SCHEMA_EXPANSION - 1) * len(msgspec.json.encode(schemas))
    return Weight(
        text_tokens=text_tokens,
        images=found.images,
        audio_tokens=found.audio_bytes // _AUDIO_BYTES_PER_TOKEN,
        is_unbounded=found.is_unbounded or reads_stored or _brings_more(body),
        max_searches=max_searches,
    )


# Tools that the client runs itself, though the vendor has defined them: Anthropic's.
_CLIENTS_OWN = re.compile(r"custom|function|namespace|(bash|text_editor|computer|memory)_\d+")
_GEMINIS_OWN = frozenset({"functionDeclarations", "function_declarations"})


def _brings_more(body: Mapping[str, Any]) -> bool:
    """Whether the provider itself adds to what a request shows: by its own tools, or from what it has kept."""
    if body.get("cachedContent") or body.get("cached_content") or body.get("mcp_servers") or body.get("container"):
        return True
    tools = body.get("tools")
    for tool in tools if isinstance(tools, list) else [tools]:
        if not isinstance(tool, dict):
            continue
        kind = tool.get("type")
        if isinstance(kind, str):
            if not _CLIENTS_OWN.fullmatch(kind):
                return True
        elif kind is None and "name" not in tool and not tool.keys() <= _GEMINIS_OWN:
            return True
    return False


def _look_at(value: Any, name: str, found: _Found) -> None:
    """Look for media; without recursion, as a request may be nested as deeply as it likes."""
    unseen: list[tuple[Any, str]] = [(value, name)]
    while unseen:
        value, name = unseen.pop()
        if isinstance(value, list):
            unseen.extend((each, name) for each in value)
        elif isinstance(value, dict):
            kind = _kind(value, name)
            for key, child in value.items():
                if isinstance(child, str):
                    _take(key, child, kind, found)
                elif isinstance(child, dict | list):
                    # Anthropic's parts say what they are one level above their source.
                    unseen.append((child, str(value.get("type")) if key == "source" else key))


def _kind(value: Mapping[str, Any], name: str) -> str:
    """Return what a part with bytes or an address in it is of."""
    media_type = value.get("media_type") or value.get("mimeType") or value.get("mime_type") or ""
    if not isinstance(media_type, str):
        media_type = ""
    if "audio" in name or media_type.startswith("audio/"):
        return "audio"
    if "image" in name or media_type.startswith("image/") or "image" in str(value.get("type", "")):
        return "image"
    return "document"


def _take(key: str, text: str, kind: str, found: _Found) -> None:
    """Count a text of a part if it stands for media."""
    is_inline = (key in _BASE64 and len(text) > 0) or text.startswith("data:")
    is_address = key in {"url", "image_url", "file_url", "fileUri", "file_uri"} and not is_inline
    if is_inline:
        found.encoded_bytes += len(text)
        if text.startswith("data:image/"):
            kind = "image"
        elif text.startswith("data:audio/"):
            kind = "audio"
    elif not is_address and key not in _REMOTE:
        return
    if kind == "image" and key not in _REMOTE:
        found.images += 1
    elif kind == "audio" and is_inline:
        found.audio_bytes += len(text)
    else:
        found.is_unbounded = True

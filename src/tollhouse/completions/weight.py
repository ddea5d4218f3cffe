"""How much a request can take in, at most: the bound that its ceiling rests on."""

import re
from collections.abc import Mapping
from typing import Any

import msgspec

from tollhouse.completions.media import Found, look_at

# What vendors wrap around a turn; measured overheads are below 10 tokens. What they put around the whole call is
# configured (input_overhead_tokens), since some servers' templates bring a system prompt of their own.
PER_MESSAGE_TOKENS = 16
# A schema or tools make some vendors add instructions of a few hundred tokens, and some write them out indented.
PER_SCHEMA_TOKENS = 1024
SCHEMA_EXPANSION = 2
# A tool that the vendor has defined is a word in the request, and a page in what the model reads: Anthropic tells of
# 1,234 tokens for its computer, and of 700 for its editor.
_PER_DEFINED_TOOL_TOKENS = 1280
_SCHEMAS = ("tools", "functions", "response_format", "output_config", "text", "generationConfig", "toolConfig")
_TURNS = ("messages", "input", "contents", "requests")
# What is written out for the model as it stands: what looks like a picture in there is text.
_TEXTS = frozenset({*_SCHEMAS, "tool_config", "generation_config", "metadata"})


class Weight(msgspec.Struct, frozen=True, gc=False):
    """What a request can take in, at most.

    Attributes:
        text_tokens: of texts, schemas and what is wrapped around them.
        images: how many pictures there are.
        audio_tokens: of recordings.
        is_unbounded: it has documents, addresses or stored input whose size it does not show: no more than the
            model's whole context window then.
        max_searches: how often the provider may search, each time reading everything again with what was found.
        max_steps: how often the provider may go on by itself, searches included, each time reading everything again.
    """

    text_tokens: int
    images: int = 0
    audio_tokens: int = 0
    is_unbounded: bool = False
    max_searches: int = 0
    max_steps: int = 0


def weigh(
    body: Mapping[str, Any],
    body_bytes: int,
    *,
    max_searches: int = 0,
    max_steps: int = 0,
    reads_stored: bool = False,
) -> Weight:
    """Return what a request in any client's format can take in.

    A token of a byte-level tokenizer stands for at least one byte, and JSON has no fewer bytes than the texts in it;
    so there are at most as many tokens of text as the body has bytes, less those of media.

    Args:
        body: the request.
        body_bytes: its length as JSON.
    """
    found = Found()
    for key, value in body.items():
        if isinstance(value, list | dict) and key not in _TEXTS:
            look_at(value, key, found)
    text_tokens = body_bytes - found.encoded_bytes
    for name in _TURNS:
        turns = body.get(name)
        if isinstance(turns, list):
            text_tokens += PER_MESSAGE_TOKENS * len(turns)
    schemas = [body[name] for name in _SCHEMAS if body.get(name)]
    if schemas:
        text_tokens += PER_SCHEMA_TOKENS + (SCHEMA_EXPANSION - 1) * len(msgspec.json.encode(schemas))
    tools = _tools(body)
    text_tokens += _PER_DEFINED_TOOL_TOKENS * sum(map(_is_defined_by_vendor, tools))
    return Weight(
        text_tokens=text_tokens,
        images=found.images,
        audio_tokens=found.audio_tokens,
        is_unbounded=found.is_unbounded or reads_stored or _brings_more(body, tools),
        max_searches=max_searches,
        max_steps=max(max_steps, max_searches),
    )


# Tools that the client runs itself, though the vendor has defined them: Anthropic's.
_DEFINED = re.compile(r"(bash|text_editor|computer|memory)_\d+")
_CLIENTS_OWN = re.compile(rf"custom|function|namespace|{_DEFINED.pattern}")
_GEMINIS_OWN = frozenset({"functionDeclarations", "function_declarations"})
_STORED = ("cachedContent", "cached_content", "mcp_servers", "container", "thread")


def is_clients_own(tool: Mapping[str, Any]) -> bool:
    """Tell whether the client runs a tool itself; all others are the provider's."""
    kind = tool.get("type")
    if isinstance(kind, str):
        return _CLIENTS_OWN.fullmatch(kind) is not None
    return kind is not None or "name" in tool or tool.keys() <= _GEMINIS_OWN


def _is_defined_by_vendor(tool: Mapping[str, Any]) -> bool:
    kind = tool.get("type")
    return isinstance(kind, str) and _DEFINED.fullmatch(kind) is not None


def _tools(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    tools = body.get("tools")
    return [tool for tool in (tools if isinstance(tools, list) else [tools]) if isinstance(tool, dict)]


def _brings_more(body: Mapping[str, Any], tools: list[dict[str, Any]]) -> bool:
    """Whether the provider itself adds to what a request shows: by its own tools, or from what it has kept."""
    return any(body.get(name) for name in _STORED) or not all(map(is_clients_own, tools))

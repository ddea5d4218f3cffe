"""What a request has its provider do by itself: run tools, and read what is not in the body."""

from collections.abc import Iterator
from typing import Any

from tollhouse.errors import InvalidRequest

_SEARCH = "web_search"
# Billed by the use, by the session or in tokens of another model, beside the usage that an answer reports.
_UNCOUNTED = frozenset(
    {
        *("code_interpreter", "file_search", "image_generation"),
        # xAI's, whose servers speak this API too.
        *("x_search", "code_execution", "collections_search"),
    }
)
# What these bring is input, which is read in a further step of the same response.
_BRINGS_INPUT = frozenset({"mcp", "programmatic_tool_calling"})
_STORED = ("previous_response_id", "conversation", "prompt")
_REFERENCES = ("file_id", "file_url")


def refuse_uncounted(body: dict[str, Any]) -> None:
    """Refuse tools of the provider whose cost an answer's usage does not tell; raises InvalidRequest."""
    for where, tool in _tools(body):
        kind = tool.get("type")
        environment = tool.get("environment")
        is_hosted_shell = kind == "shell" and (not isinstance(environment, dict) or environment.get("type") != "local")
        if (isinstance(kind, str) and kind in _UNCOUNTED) or is_hosted_shell:
            raise InvalidRequest(
                f"{where}.type: {kind} is run and billed by the provider in units that cannot be entered with an answer"
            )


def offers_search(body: dict[str, Any]) -> bool:
    """Tell whether the provider may search the web; a stored prompt may have brought the tool along."""
    if body.get("prompt") is not None:
        return True
    return any(str(tool.get("type")).startswith(_SEARCH) for _, tool in _tools(body))


def goes_on(body: dict[str, Any]) -> bool:
    """Tell whether the provider may take several steps by itself, reading everything again at each."""
    return offers_search(body) or any(str(tool.get("type")) in _BRINGS_INPUT for _, tool in _tools(body))


def reads_stored(body: dict[str, Any]) -> bool:
    """Tell whether some of the input is not in the body."""
    if any(body.get(name) is not None for name in _STORED):
        return True
    kinds = [str(tool.get("type")) for _, tool in _tools(body)]
    if any(kind.startswith(_SEARCH) or kind in _BRINGS_INPUT for kind in kinds):
        return True
    return any(_is_reference(part) for item in _items(body) for part in (item, *_parts(item)))


def _is_reference(part: dict[str, Any]) -> bool:
    return part.get("type") == "item_reference" or any(part.get(name) is not None for name in _REFERENCES)


def _items(body: dict[str, Any]) -> list[dict[str, Any]]:
    given = body.get("input")
    return [item for item in given if isinstance(item, dict)] if isinstance(given, list) else []


def _parts(item: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for name in ("content", "output"):
        held = item.get(name)
        for part in held if isinstance(held, list) else (held,):
            if isinstance(part, dict):
                yield part


def _tools(body: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Return every tool with its path: those of the request, those that items add, and those within a namespace."""
    holders = [("", body)]
    given = body.get("input")
    for i, item in enumerate(given if isinstance(given, list) else ()):
        if isinstance(item, dict):
            holders.append((f"input[{i}].", item))
    for where, holder in holders:
        tools = holder.get("tools")
        for i, tool in enumerate(tools if isinstance(tools, list) else ()):
            if not isinstance(tool, dict):
                continue
            path = f"{where}tools[{i}]"
            yield path, tool
            inner = tool.get("tools")
            for j, within in enumerate(inner if isinstance(inner, list) else ()):
                if isinstance(within, dict):
                    yield f"{path}.tools[{j}]", within

"""The documentation page: the OpenAPI document as HTML that needs no script and no other server."""

from html import escape
from typing import Any

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1b1f24 }
h2 { margin-top: 3rem } h3 { margin: 2rem 0 .25rem; font: 600 1rem ui-monospace, monospace }
h3 b { display: inline-block; min-width: 4.5rem; color: #0a58ca }
table { border-collapse: collapse; margin: .5rem 0; width: 100% }
td, th { border-top: 1px solid #d8dee4; padding: .3rem .6rem; text-align: left; vertical-align: top }
td:first-child { font-family: ui-monospace, monospace; white-space: nowrap }
@media (prefers-color-scheme: dark) { body { background: #0d1117; color: #e6edf3 } a, h3 b { color: #6cb6ff } }
"""


def page(document: dict[str, Any]) -> str:
    """Return an OpenAPI document as a page of HTML."""
    info = document["info"]
    title = f"{escape(info['title'])} {escape(info['version'])}"
    by_tag: dict[str, list[str]] = {}
    for path, operations in sorted(document["paths"].items()):
        for method, operation in operations.items():
            by_tag.setdefault(operation["tags"][0], []).append(_operation(method, path, operation))
    parts = [f"<h2>{escape(tag)}</h2>{''.join(operations)}" for tag, operations in sorted(by_tag.items())]
    schemas = [_schema(name, schema) for name, schema in sorted(document["components"]["schemas"].items())]
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style>'
        f"<h1>{title}</h1><p>{escape(info['description'])}</p>"
        f'<p>For programs: <a href="openapi.json">openapi.json</a></p>'
        f"{''.join(parts)}<h2>Bodies</h2>{''.join(schemas)}</html>"
    )


def _operation(method: str, path: str, operation: dict[str, Any]) -> str:
    rows = [
        (f"{each['name']} ({each['in']})", _type(each["schema"]), each.get("description", ""))
        for each in operation.get("parameters", [])
    ]
    if "requestBody" in operation:
        rows.append(("body", _content(operation["requestBody"]), ""))
    for status, response in sorted(operation["responses"].items()):
        rows.append((status, _content(response), response["description"] if status[0] != "2" else ""))
    key = "" if operation.get("security") else " No key is needed."
    return f"<h3><b>{method.upper()}</b> {escape(path)}</h3><p>{escape(operation['summary'])}{key}</p>{_table(rows)}"


def _schema(name: str, schema: dict[str, Any]) -> str:
    required = schema.get("required", [])
    rows = [
        (field + ("" if field in required else "?"), _type(value), value.get("description", ""))
        for field, value in schema.get("properties", {}).items()
    ]
    return f'<h3 id="{escape(name)}">{escape(name)}</h3><p>{escape(schema.get("description", ""))}</p>{_table(rows)}'


def _table(rows: list[tuple[str, str, str]]) -> str:
    """Return rows of name, type and description; the type is HTML already."""
    cells = (f"<tr><td>{escape(name)}<td>{kind}<td>{escape(text)}" for name, kind, text in rows)
    return f"<table>{''.join(cells)}</table>"


def _content(part: dict[str, Any]) -> str:
    return ", ".join(_type(media["schema"]) for media in part.get("content", {}).values() if "schema" in media)


def _type(schema: dict[str, Any]) -> str:
    """Return a schema in a few words of HTML, with links to named ones."""
    if "$ref" in schema:
        name = escape(schema["$ref"].rpartition("/")[2])
        return f'<a href="#{name}">{name}</a>'
    if "enum" in schema:
        return " | ".join(escape(str(choice)) for choice in schema["enum"])
    choices = schema.get("anyOf") or schema.get("oneOf")
    if choices:
        return " | ".join(map(_type, choices))
    if schema.get("type") == "array":
        return f"list of {_type(schema.get('items', {}))}"
    return escape(str(schema.get("format") or schema.get("type") or "any JSON"))

"""The texts within a request's or an answer's JSON, in any client's format.

Everything is a text but for what is known to be structure: a field that a vendor adds tomorrow is looked into as well.
Within a tool's input and result nothing is structure, and names and long numbers are looked into too.
"""

from collections.abc import Callable
from typing import Any, Literal

import msgspec

from tollhouse.errors import InvalidRequest

Role = Literal["system", "user", "assistant"]
Visit = Callable[[str, Role, str], str]
"""Takes a text, who says it, and the name of its field; returns what is to stand in its place."""

_STRUCTURE = frozenset(
    {
        "type",
        "role",
        "id",
        "object",
        "model",
        "call_id",
        "tool_call_id",
        "tool_use_id",
        "item_id",
        "previous_response_id",
        "conversation",
        "container",
        "format",
        "media_type",
        "mimeType",
        "mime_type",
        "signature",
        "thoughtSignature",
        "thought_signature",
        "encrypted_content",
        "url",
        "image_url",
        "file_url",
        "fileUri",
        "file_uri",
        "file_id",
        "file_data",
        "b64_json",
        "partial_image_b64",
        "detail",
        "effort",
        "mode",
        "ttl",
        "service_tier",
        "serviceTier",
        "tool_choice",
        "cachedContent",
        "cached_content",
        "encoding_format",
        "$ref",
        "$id",
        "$schema",
        "status",
        "finish_reason",
        "stop_reason",
        "finishReason",
        "system_fingerprint",
        "responseId",
        "modelVersion",
        "pattern",
    }
)
_ROLES: dict[Any, Role] = {
    "system": "system",
    "developer": "system",
    "assistant": "assistant",
    "model": "assistant",
    "user": "user",
    "tool": "user",
    "function": "user",
}
# What the application says, and not its user.
_APPLICATION = frozenset(
    {
        "system",
        "system_prompt",
        "instructions",
        "systemInstruction",
        "system_instruction",
        "tools",
        "functions",
        "response_format",
        "text",
        "generationConfig",
        "generation_config",
        "response_schema",
        "output_config",
    }
)
_ENCODED = frozenset({("image_generation_call", "result"), ("response.audio.delta", "delta")})
_BESIDE_DATA = frozenset({"media_type", "mimeType", "mime_type", "format", "expires_at"})
_FREE = frozenset({"args", "response", "metadata"})
_MODELS_OWN = frozenset({"function_call", "tool_use", "reasoning", "custom_tool_call"})
# The shortest number that is looked into: shorter ones are counts and amounts.
_LEAST_NUMBER = 10**8


def rewritten(body: dict[str, Any], visit: Visit) -> dict[str, Any]:
    """Return a body with each text as ``visit`` has it: the same object where nothing has changed.

    Raises:
        InvalidRequest: it is nested too deeply.
    """
    try:
        found: dict[str, Any] = _object(body, "user", visit, is_top=True)
    except RecursionError:
        raise InvalidRequest("the body is nested too deeply") from None
    return found


def free_json(value: Any, visit: Visit, role: Role = "user", label: str = "") -> Any:
    """Return JSON of no known form with each text, name and long number as ``visit`` has it."""
    if isinstance(value, str):
        return visit(value, role, label)
    if isinstance(value, dict):
        pairs = [(visit(key, role, ""), free_json(each, visit, role, key)) for key, each in value.items()]
        is_same = all(a is key and b is each for (a, b), (key, each) in zip(pairs, value.items(), strict=True))
        return value if is_same else dict(pairs)
    if isinstance(value, list):
        items = [free_json(each, visit, role, label) for each in value]
        return value if all(a is b for a, b in zip(items, value, strict=True)) else items
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= _LEAST_NUMBER:
        text = str(value)
        said = visit(text, role, label)
        return value if said == text else said
    return value


def json_text(text: str, visit: Visit, role: Role = "assistant") -> str:
    """Return JSON within a text, such as a call's arguments; what is no JSON is a text like any other."""
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeError):
        return visit(text, role, "")
    changed = free_json(value, visit, role)
    return text if changed is value else msgspec.json.encode(changed).decode()


def _object(value: dict[str, Any], role: Role, visit: Visit, *, is_top: bool = False) -> dict[str, Any]:
    said_role = value.get("role")
    if isinstance(said_role, str):
        role = _ROLES.get(said_role, "user")
    elif value.get("type") in _MODELS_OWN:
        role = "assistant"
    changed: dict[str, Any] | None = None
    for key, each in value.items():
        if isinstance(each, str):
            new: Any = _text(value, key, each, _role_at(key, role) if is_top else role, visit)
        elif isinstance(each, dict | list):
            within = _role_at(key, role) if is_top else role
            new = free_json(each, visit, within, key) if _is_free(value, key) else _any(each, within, visit)
        else:
            continue
        if new is not each:
            changed = dict(value) if changed is None else changed
            changed[key] = new
    return value if changed is None else changed


def _any(value: Any, role: Role, visit: Visit) -> Any:
    if isinstance(value, dict):
        return _object(value, role, visit)
    if not isinstance(value, list):
        return value
    items = [visit(each, role, "") if isinstance(each, str) else _any(each, role, visit) for each in value]
    return value if all(a is b for a, b in zip(items, value, strict=True)) else items


def _role_at(key: str, role: Role) -> Role:
    return "system" if key in _APPLICATION else role


def _text(value: dict[str, Any], key: str, text: str, role: Role, visit: Visit) -> str:
    if key in _STRUCTURE or (key == "name" and "role" not in value):
        return text
    if _is_encoded(value, key):
        return text
    return json_text(text, visit, role) if key == "arguments" else visit(text, role, key)


def _is_encoded(value: dict[str, Any], key: str) -> bool:
    """Whether a field is bytes in base64."""
    kind = value.get("type")
    if key != "data":
        return (kind, key) in _ENCODED
    # A document of Anthropic's that is plain text has a media type as well.
    return kind != "text" and (kind == "redacted_thinking" or not value.keys().isdisjoint(_BESIDE_DATA))


def _is_free(value: dict[str, Any], key: str) -> bool:
    if key in _FREE or key == "arguments":
        return True
    kind = value.get("type")
    return key == "input" and isinstance(kind, str) and kind.endswith("tool_use")

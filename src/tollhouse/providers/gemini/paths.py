"""Where Google's methods are found, and which of a client's headers go there."""

from collections.abc import Mapping
from urllib.parse import quote

# Which client library calls, and how long it waits. Whatever else clients send is between them and this service; a key
# or a project above all.
_PASSED_ON = ("x-goog-api-client", "x-server-timeout")


def resource_name(model: str) -> str:
    """Return a model's resource: as in Google's SDK, a bare name is one of models/."""
    return model if "/" in model else f"models/{model}"


def model_path(model: str, method: str) -> str:
    """Return the path of a model's method."""
    return f"/v1beta/{quote(resource_name(model), safe='/-._~')}:{method}"


def generate_path(model: str, *, stream: bool) -> str:
    """Return the path of generateContent, or of its stream in server-sent events."""
    return model_path(model, "streamGenerateContent?alt=sse" if stream else "generateContent")


def passed_on(headers: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    """Return those of a client's headers that Google's own client sends for Google to read."""
    return tuple((name, headers[name]) for name in _PASSED_ON if name in headers)

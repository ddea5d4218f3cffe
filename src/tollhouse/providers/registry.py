"""Which adapter speaks for which kind of provider, and where its vendor is found."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from tollhouse.errors import StartError
from tollhouse.providers.anthropic.adapter import AnthropicAdapter
from tollhouse.providers.base import Adapter
from tollhouse.providers.deepseek import DeepSeekAdapter
from tollhouse.providers.gemini.adapter import GeminiAdapter
from tollhouse.providers.openai.adapter import OpenAIAdapter

_ADAPTERS: dict[str, Callable[..., Adapter]] = {
    "anthropic": AnthropicAdapter,
    "openai": OpenAIAdapter,
    "deepseek": DeepSeekAdapter,
    "gemini": GeminiAdapter,
}

_WITH_RESPONSES = frozenset({"openai", "deepseek"})

DEFAULT_BASE_URLS: Mapping[str, str] = MappingProxyType(
    {
        "anthropic": "https://api.anthropic.com",
        "openai": "https://api.openai.com/v1",
        "deepseek": "https://api.deepseek.com",
        "gemini": "https://generativelanguage.googleapis.com",
    }
)
"""For each kind, what that vendor's own SDK calls its base URL."""


def adapter_for(kind: str, *, base_url: str, api_key: str, has_responses: bool | None = None) -> Adapter:
    """Return the adapter that speaks a kind of provider's wire format.

    Args:
        kind: ``anthropic``, ``openai``, ``deepseek`` or ``gemini``.
        base_url: what that vendor's own SDK calls base URL.
        api_key: the operator's key; empty for a local server without authentication.
        has_responses: whether it serves OpenAI's Responses API; None: where its address is known to.

    Raises:
        StartError: the kind is none of the above.
    """
    try:
        make = _ADAPTERS[kind]
    except KeyError:
        raise StartError(f"provider kind {kind!r} is not known; expected one of {', '.join(_ADAPTERS)}") from None
    if kind in _WITH_RESPONSES:
        return make(base_url=base_url, api_key=api_key, has_responses=has_responses)
    return make(base_url=base_url, api_key=api_key)

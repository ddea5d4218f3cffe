"""Which format is spoken where."""

from tollhouse.testing.behaviour import Format
from tollhouse.testing.formats.anthropic import AnthropicFormat, CountTokensFormat
from tollhouse.testing.formats.base import WireFormat
from tollhouse.testing.formats.chat import DeepSeekFormat, OpenAIFormat
from tollhouse.testing.formats.embeddings import EmbeddingsFormat
from tollhouse.testing.formats.gemini import GeminiEmbedFormat, GeminiFormat
from tollhouse.testing.formats.responses import DeepSeekResponsesFormat, ResponsesFormat

_BY_PATH: dict[str, WireFormat] = {
    "/v1/messages": AnthropicFormat(),
    "/v1/messages/count_tokens": CountTokensFormat(),
    "/v1/chat/completions": OpenAIFormat(),
    "/v1/responses": ResponsesFormat(),
    "/v1/embeddings": EmbeddingsFormat(),
    "/chat/completions": DeepSeekFormat(),
    "/responses": DeepSeekResponsesFormat(),
}
_GENERATES, _EMBEDS = GeminiFormat(), GeminiEmbedFormat()
_BY_METHOD: dict[str, WireFormat] = {
    "generateContent": _GENERATES,
    "streamGenerateContent": _GENERATES,
    "embedContent": _EMBEDS,
    "batchEmbedContents": _EMBEDS,
}

BASE_PATHS: dict[Format, str] = {"anthropic": "", "openai": "/v1", "deepseek": "", "gemini": ""}
"""What follows host and port in the base URL that each vendor's own SDK would be given."""


def format_at(path: str) -> WireFormat | None:
    """Return the format spoken at a path, or None where none is."""
    resource, _, method = path.rpartition(":")
    # Google's client asks for the one version or the other, by its own version.
    if resource.startswith(("/v1beta/", "/v1/")):
        return _BY_METHOD.get(method)
    return _BY_PATH.get(path)

"""Which client API is served at which address."""

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from tollhouse.completions.wire.base import Api
from tollhouse.completions.wire.chat.api import ChatApi
from tollhouse.completions.wire.embeddings import EmbeddingsApi
from tollhouse.completions.wire.gemini.api import GeminiApi
from tollhouse.completions.wire.gemini.embeddings import GeminiEmbeddingsApi
from tollhouse.completions.wire.messages.api import MessagesApi
from tollhouse.completions.wire.responses.api import ResponsesApi

CLIENT_APIS: Mapping[str, Api] = MappingProxyType(
    {
        "/v1/chat/completions": ChatApi(),
        "/v1/responses": ResponsesApi(),
        "/v1/embeddings": EmbeddingsApi(),
        "/v1/messages": MessagesApi(),
    }
)
"""By path, as the vendors' own clients put it together from their base URL."""

GEMINI_VERBS: Mapping[str, tuple[Api, bool]] = MappingProxyType(
    {
        "generateContent": (GeminiApi(), False),
        "streamGenerateContent": (GeminiApi(), True),
        "embedContent": (GeminiEmbeddingsApi(), False),
        "batchEmbedContents": (GeminiEmbeddingsApi(), False),
    }
)
"""By what follows the model's name in the path: the API, and whether it answers in events."""

_GOOGLES = re.compile(r"/v1(beta|alpha)/|/v1/models/.+:\w+$", re.ASCII)


def api_around(path: str, headers: Iterable[tuple[bytes, bytes]]) -> Api | None:
    """Return the API whose clients ask at an address, whether it is served or not; None for Tollhouse's own.

    Args:
        path: what is asked for, without its query.
        headers: names in lower case; Anthropic's clients tell themselves from OpenAI's by one of theirs.
    """
    if _GOOGLES.match(path):
        return GEMINI_VERBS["generateContent"][0]
    if not path.startswith("/v1/"):
        return None
    is_anthropics = path.startswith("/v1/messages") or any(name == b"anthropic-version" for name, _ in headers)
    return CLIENT_APIS["/v1/messages" if is_anthropics else "/v1/chat/completions"]

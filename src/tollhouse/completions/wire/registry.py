"""Which client API is served at which address."""

from collections.abc import Mapping
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

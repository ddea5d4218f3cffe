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

_GEMINI = GeminiApi()
GEMINI_VERBS: Mapping[str, tuple[Api, bool]] = MappingProxyType(
    {
        "generateContent": (_GEMINI, False),
        "streamGenerateContent": (_GEMINI, True),
        "embedContent": (GeminiEmbeddingsApi(), False),
        "batchEmbedContents": (GeminiEmbeddingsApi(), False),
    }
)
"""By what follows the model's name in the path: the API, and whether it answers in events."""

_GOOGLES = re.compile(r"/v1(beta|alpha)/|/v1/models/.+:\w+$", re.ASCII)
# What tells a vendor's own client at the addresses that several have.
_TELLING = {b"anthropic-version": "/v1/messages", b"x-goog-api-client": None, b"x-goog-api-key": None}


def api_around(path: str, headers: Iterable[tuple[bytes, bytes]]) -> Api | None:
    """Return the API whose clients ask at an address, whether it is served or not; None for Tollhouse's own.

    Args:
        path: what is asked for, without its query.
        headers: names in lower case.
    """
    if _GOOGLES.match(path):
        return _GEMINI
    if not path.startswith("/v1/"):
        return None
    if path.startswith("/v1/messages"):
        return CLIENT_APIS["/v1/messages"]
    told = [_TELLING[name] for name, _ in headers if name in _TELLING]
    if not told:
        return CLIENT_APIS["/v1/chat/completions"]
    return _GEMINI if told[0] is None else CLIENT_APIS[told[0]]

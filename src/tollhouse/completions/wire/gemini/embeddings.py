"""Google's embedContent and batchEmbedContents as an API that clients speak.

A vector is of use only beside others of the same model, so that nothing is translated: calls are relayed to Google.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NoReturn

from tollhouse.completions.wire.base import AnswerHead, Asked, StreamWriter
from tollhouse.completions.wire.gemini.api import path_model_name
from tollhouse.completions.wire.gemini.errors import error_body
from tollhouse.completions.wire.gemini.fields import named, read_object
from tollhouse.errors import InternalError, InvalidRequest, TollhouseError
from tollhouse.providers.base import ApiName
from tollhouse.providers.conversation import ProviderAnswer, ProviderRequest
from tollhouse.providers.usage import Usage

_MOST_REQUESTS = 100  # As many as Google takes in one batch.


class GeminiEmbeddingsApi:
    """Requests for embeddings; a body with ``requests`` is a batch's."""

    name: ApiName = "gemini-embeddings"
    names: Mapping[str, str] = MappingProxyType({})

    def read(self, raw: bytes, path_model: str | None = None, *, is_stream: bool = False) -> Asked:
        body = read_object(raw)
        fields = named(body, "")
        if is_stream:
            raise InvalidRequest("the path: embeddings do not come in streams")
        if ("content" in fields) == ("requests" in fields):
            raise InvalidRequest("content: expected either content or requests, and not both")
        if "content" in fields:
            named(fields["content"], "content")
        else:
            _check_batch(fields["requests"])
        # Embeddings have no output tokens.
        return Asked(body=body, model=path_model_name(path_model), max_tokens=0, shows_usage=False)

    def limited(self, asked: Asked, max_tokens: int) -> dict[str, Any]:  # noqa: ARG002
        return asked.body

    def translated(self, asked: Asked, max_tokens: int) -> ProviderRequest:  # noqa: ARG002
        raise InvalidRequest(
            "model: embeddings in Google's format are for Google's models; vectors of different models do not compare"
        )

    def answer(self, answer: ProviderAnswer, usage: Usage, head: AnswerHead) -> bytes:  # noqa: ARG002
        _never_translated()

    def stream_writer(self, asked: Asked, head: AnswerHead) -> StreamWriter:  # noqa: ARG002
        _never_translated()

    def error(self, error: TollhouseError, request_id: str) -> bytes:
        return error_body(error, request_id)

    def stream_error(self, error: TollhouseError, request_id: str) -> bytes:  # noqa: ARG002
        _never_translated()


def _check_batch(requests: Any) -> None:
    if not isinstance(requests, list) or not 0 < len(requests) <= _MOST_REQUESTS:
        raise InvalidRequest(f"requests: expected a list of 1 to {_MOST_REQUESTS}")
    for i, each in enumerate(requests):
        fields = named(each, f"requests[{i}]")
        if "content" not in fields:
            raise InvalidRequest(f"requests[{i}].content: is required")
        named(fields["content"], f"requests[{i}].content")


def _never_translated() -> NoReturn:
    raise InternalError("embeddings in Google's format are relayed, and never written")

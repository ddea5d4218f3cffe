"""OpenAI's embeddings, as clients speak it: passed on to providers that serve it, and translated for none."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NoReturn

from tollhouse.completions.wire.base import AnswerHead, Asked, StreamWriter
from tollhouse.completions.wire.fields import json_object, model_name, text
from tollhouse.completions.wire.openai_errors import error_body
from tollhouse.errors import InternalError, InvalidRequest, TollhouseError
from tollhouse.providers.base import ApiName
from tollhouse.providers.conversation import ProviderAnswer, ProviderRequest
from tollhouse.providers.usage import Usage


class EmbeddingsApi:
    """``POST /v1/embeddings``."""

    name: ApiName = "embeddings"
    names: Mapping[str, str] = MappingProxyType({})

    def read(self, raw: bytes, path_model: str | None = None, *, is_stream: bool = False) -> Asked:  # noqa: ARG002
        body = json_object(raw)
        if not _is_input(body.get("input")):
            raise InvalidRequest("input: expected a string, a list of strings, or one or more lists of token numbers")
        return Asked(body=body, model=model_name(body), max_tokens=0, user=text(body, "user"))

    def limited(self, asked: Asked, max_tokens: int) -> dict[str, Any]:  # noqa: ARG002
        return asked.body

    def translated(self, asked: Asked, max_tokens: int) -> ProviderRequest:  # noqa: ARG002
        raise InvalidRequest(f"model: {asked.model} is not served by a provider with OpenAI's embeddings API")

    def answer(self, answer: ProviderAnswer, usage: Usage, head: AnswerHead) -> bytes:  # noqa: ARG002
        _never_translated()

    def stream_writer(self, asked: Asked, head: AnswerHead) -> StreamWriter:  # noqa: ARG002
        _never_translated()

    def error(self, error: TollhouseError, request_id: str) -> bytes:  # noqa: ARG002
        return error_body(error)

    def stream_error(self, error: TollhouseError, request_id: str) -> bytes:  # noqa: ARG002
        _never_translated()


def _is_input(value: Any) -> bool:
    if isinstance(value, str):
        return bool(value)
    if not isinstance(value, list) or not value:
        return False
    if all(isinstance(item, str) for item in value):
        return True
    return _is_tokens(value) or all(isinstance(item, list) and _is_tokens(item) for item in value)


def _is_tokens(value: list[Any]) -> bool:
    return bool(value) and all(type(item) is int and item >= 0 for item in value)


def _never_translated() -> NoReturn:
    raise InternalError("embeddings are passed on as they are, and never written or streamed")

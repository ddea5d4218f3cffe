"""OpenAI's embeddings (https://platform.openai.com/docs/api-reference/embeddings): relayed, read for their usage."""

from collections.abc import Mapping
from typing import Any

import msgspec

from tollhouse.errors import InternalError
from tollhouse.providers.base import OutcomeUnknown, StreamReader, WireRequest, WireResponse
from tollhouse.providers.chat_completions.relay import relayed
from tollhouse.providers.conversation import ProviderAnswer
from tollhouse.providers.openai.refusals import is_operators
from tollhouse.providers.parsing import ABSENT, UNREADABLE, Count, first_id, reports_use, usage_or_none
from tollhouse.providers.refusals import failure, overloaded, vendor_error
from tollhouse.providers.usage import Usage

_PATH = "/embeddings"


class _Usage(msgspec.Struct):
    # Some compatible servers give the total alone.
    prompt_tokens: Count | None = None
    total_tokens: Count | None = None


class _Answer(msgspec.Struct):
    # The vectors are passed on unread.
    data: list[msgspec.Raw] | None = None
    usage: msgspec.Raw = ABSENT
    error: Any = None
    id: Any = None


_decoder = msgspec.json.Decoder(_Answer)
_usage_decoder = msgspec.json.Decoder(_Usage)


class EmbeddingsDialect:
    """Embeddings as one provider serves them.

    Args:
        headers: with the operator's key.
        secret: that key, which is taken out of any reason passed on.
    """

    def __init__(self, headers: tuple[tuple[str, str], ...], secret: str) -> None:
        self._headers = headers
        self._secret = secret

    def relay(self, body: Mapping[str, Any], *, model: str, stream: bool, headers: Mapping[str, str]) -> WireRequest:
        if stream:
            raise InternalError("embeddings are not streamed")
        return relayed(_PATH, body, model=model, headers=headers, own=self._headers)

    def decode(self, response: WireResponse) -> ProviderAnswer:
        if response.status != 200:
            raise failure(response, secret=self._secret, is_operators=is_operators)
        try:
            answer = _decoder.decode(response.body)
        except UNREADABLE as error:
            raise OutcomeUnknown("the provider's answer cannot be read as embeddings") from error
        if not answer.data:
            reported = vendor_error(response.body) if answer.error else None
            if reported is None or reports_use(answer.usage):
                raise OutcomeUnknown("the provider's answer has no embeddings")
            raise overloaded(response, reported)
        return ProviderAnswer(
            content="",
            finish_reason="stop",
            usage=usage_or_none(answer.usage, _usage_decoder, _classify),
            provider_request_id=first_id(response.headers.get("x-request-id"), answer.id),
        )

    def stream_reader(self) -> StreamReader:
        raise InternalError("embeddings are not streamed")


def _classify(reported: _Usage) -> Usage:
    counts = (reported.prompt_tokens, reported.total_tokens)
    # A block without either says nothing of what was used: a negative count marks it as unreadable.
    return Usage(input_tokens=next((count for count in counts if count is not None), -1))

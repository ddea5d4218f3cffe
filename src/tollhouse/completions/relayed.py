"""A client's own API as a question: relayed as it is to a provider that speaks it, translated for all others."""

from collections.abc import Mapping

import msgspec

from tollhouse.completions.models import Candidate
from tollhouse.completions.question import Prepared, Told
from tollhouse.completions.weight import Weight
from tollhouse.completions.wire.base import AnswerHead, Api, Asked, StreamWriter, in_its_words
from tollhouse.errors import InvalidRequest, TollhouseError


class ApiQuestion(msgspec.Struct, frozen=True, gc=False):
    """A call in the format of an existing client.

    Attributes:
        limit: the output limit of each answer, the client's own or the one that is set in its place.
        headers: the client's, names in lower case.
    """

    api: Api
    asked: Asked
    limit: int
    weight: Weight
    prompt_bytes: int
    headers: Mapping[str, str]

    @property
    def model(self) -> str:
        return self.asked.model

    @property
    def max_tokens(self) -> int:
        return self.limit * self.asked.answers

    @property
    def answers(self) -> int:
        return self.asked.answers

    @property
    def is_stream(self) -> bool:
        return self.asked.is_stream

    @property
    def takes_comments(self) -> bool:
        # Google's own client takes every line for data.
        return self.api.name != "gemini"

    def hides(self, data: bytes) -> bool:
        is_hidden = self.asked.is_hidden
        return is_hidden is not None and is_hidden(data)

    def prepare(self, candidate: Candidate) -> Prepared:
        limit = min(self.limit, candidate.max_output_tokens or self.limit)
        dialect = candidate.adapter.dialect(self.api.name)
        if dialect is None:
            request = self.api.translated(self.asked, limit)
            request = msgspec.structs.replace(request, model=candidate.upstream_model, stream=self.is_stream)
            try:
                return Prepared(candidate.adapter.encode(request), candidate.adapter)
            except InvalidRequest as refusal:
                raise in_its_words(refusal, self.api.names) from None
        wire = dialect.relay(
            self.api.limited(self.asked, limit),
            model=candidate.upstream_model,
            stream=self.is_stream,
            headers=self.headers,
        )
        return Prepared(wire, dialect, is_relayed=True)

    def body(self, told: Told) -> bytes:
        if told.raw is not None:
            return told.raw
        return self.api.answer(told.answer, told.usage, self._head(told.request_id, told.created_s))

    def writer(self, request_id: str, created_s: int) -> StreamWriter:
        return self.api.stream_writer(self.asked, self._head(request_id, created_s))

    def last(self, writer: StreamWriter, told: Told) -> bytes:
        return writer.end(told.usage)

    def failure(self, error: TollhouseError, request_id: str) -> bytes:
        return self.api.stream_error(error, request_id)

    def _head(self, request_id: str, created_s: int) -> AnswerHead:
        return AnswerHead(request_id, self.asked.model, created_s, self.asked)

"""``POST /ai/complete`` as a question: Tollhouse's own format, translated for every provider."""

from typing import Any

import msgspec

from tollhouse.completions.estimate import max_input_tokens, text_bytes
from tollhouse.completions.model import Envelope, encode
from tollhouse.completions.models import Candidate
from tollhouse.completions.question import Prepared, Told
from tollhouse.completions.weight import Weight
from tollhouse.completions.wire.base import StreamWriter
from tollhouse.errors import TollhouseError
from tollhouse.kit.money import usd
from tollhouse.providers.conversation import Message, PartBegun, PartGrew, ProviderRequest, StreamEvent, Text
from tollhouse.providers.sse import encode_event
from tollhouse.providers.usage import Usage


class NativeQuestion(msgspec.Struct, frozen=True, gc=False):
    """A call in Tollhouse's own format."""

    model: str
    messages: tuple[Message, ...]
    max_tokens: int
    temperature: float | None = None
    stop: tuple[str, ...] = ()
    response_schema: dict[str, Any] | None = None
    is_stream: bool = False
    takes_comments: bool = True

    @property
    def answers(self) -> int:
        return 1

    @property
    def weight(self) -> Weight:
        return Weight(max_input_tokens(self.messages, self.response_schema))

    @property
    def prompt_bytes(self) -> int:
        return text_bytes(self.messages)

    def as_body(self) -> dict[str, Any]:
        """Return what goes to the model, as JSON."""
        turns = [{"role": message.role, "content": message.content} for message in self.messages]
        return {"messages": turns, "stop": list(self.stop), "response_schema": self.response_schema}

    def with_body(self, body: dict[str, Any]) -> "NativeQuestion":
        """Return the question with this going to the model."""
        turns = tuple(Message(turn["role"], turn["content"]) for turn in body["messages"])
        return msgspec.structs.replace(
            self, messages=turns, stop=tuple(body["stop"]), response_schema=body["response_schema"]
        )

    def provider_request(self, candidate: Candidate) -> ProviderRequest:
        """Return the call in the form that a candidate's adapter translates."""
        return ProviderRequest(
            model=candidate.upstream_model,
            messages=self.messages,
            max_tokens=min(self.max_tokens, candidate.max_output_tokens or self.max_tokens),
            temperature=self.temperature,
            stop=self.stop,
            response_schema=self.response_schema,
            stream=self.is_stream,
        )

    def hides(self, data: bytes) -> bool:  # noqa: ARG002 - it is never relayed
        return False

    def prepare(self, candidate: Candidate) -> Prepared:
        return Prepared(candidate.adapter.encode(self.provider_request(candidate)), candidate.adapter)

    def body(self, told: Told) -> bytes:
        answer, usage = told.answer, told.usage
        return encode(
            Envelope(
                content=answer.content,
                input_tokens=usage.input_tokens,
                output_tokens=usage.output_tokens,
                cost_usd=usd(told.cost_nano_usd),
                request_id=told.request_id,
                model=told.model,
                provider=told.provider,
                cached_input_tokens=usage.cached_input_tokens,
                cache_write_tokens=usage.cache_write_tokens + usage.cache_write_1h_tokens,
                reasoning_tokens=usage.reasoning_tokens,
                total_tokens=usage.total_tokens,
                finish_reason=answer.finish_reason,
                fallback_used=told.fallback_used,
                usage_source=told.usage_source,
                latency_ms=told.latency_ms,
            )
        )

    def writer(self, request_id: str, created_s: int) -> StreamWriter:  # noqa: ARG002 - they come with the envelope
        return _NativeWriter()

    def last(self, writer: StreamWriter, told: Told) -> bytes:
        assert isinstance(writer, _NativeWriter), "it is the one that writer() made"
        answer = msgspec.structs.replace(told.answer, content=writer.content)
        whole = msgspec.structs.replace(told, answer=answer)
        return writer.end(told.usage) + encode_event(self.body(whole), "done")

    def failure(self, error: TollhouseError, request_id: str) -> bytes:
        return stream_error(error, request_id)


def stream_error(error: TollhouseError, request_id: str) -> bytes:
    """Write the event that ends a stream which fails after it began."""
    told = {"error": error.code, "message": error.message, "request_id": request_id}
    return encode_event(msgspec.json.encode(told), "error")


class _NativeWriter:
    """Writes ``delta`` for each piece of text, then ``usage``; ``done`` holds the envelope of the whole answer."""

    def __init__(self) -> None:
        self._texts: set[int] = set()
        self._pieces: list[str] = []

    @property
    def content(self) -> str:
        """The text so far."""
        return "".join(self._pieces)

    def begin(self) -> bytes:
        return b""

    def write(self, event: StreamEvent) -> bytes:
        if isinstance(event, PartBegun):
            if isinstance(event.part, Text):
                self._texts.add(event.index)
        elif isinstance(event, PartGrew) and event.text and event.index in self._texts:
            self._pieces.append(event.text)
            return encode_event(msgspec.json.encode({"content": event.text}), "delta")
        return b""

    def end(self, usage: Usage) -> bytes:
        told = {
            "input_tokens": usage.input_tokens,
            "output_tokens": usage.output_tokens,
            "cached_input_tokens": usage.cached_input_tokens,
            "cache_write_tokens": usage.cache_write_tokens + usage.cache_write_1h_tokens,
            "reasoning_tokens": usage.reasoning_tokens,
            "total_tokens": usage.total_tokens,
        }
        return encode_event(msgspec.json.encode(told), "usage")

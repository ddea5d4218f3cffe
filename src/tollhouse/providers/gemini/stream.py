"""From the chunks of streamGenerateContent, each a GenerateContentResponse, to neutral events."""

from collections.abc import Sequence
from typing import Any

import msgspec

from tollhouse.providers.base import OutcomeUnknown, WireResponse
from tollhouse.providers.conversation import (
    Finished,
    PartBegun,
    PartEnded,
    PartGrew,
    StreamEvent,
    Text,
    Thinking,
    ToolCall,
)
from tollhouse.providers.gemini.answer import AnswerPart, Candidate, Response, finish_reason, read_response, tool_call
from tollhouse.providers.gemini.refusals import refused
from tollhouse.providers.gemini.usage import Searches, read_usage
from tollhouse.providers.parsing import UNREADABLE, first_id, reports_use
from tollhouse.providers.sse import ServerSentEvent
from tollhouse.providers.usage import Usage


class GeminiStreamReader:
    """Reads one streamed answer; of alternative ones, the first."""

    def __init__(self, secret: str) -> None:
        self.usage: Usage | None = None
        self.is_behind = False
        # Google counts thoughts in every chunk, whether it shows them or not.
        self.thinks_unseen = False
        self.provider_request_id: str | None = None
        self._secret = secret
        self._usage_block = msgspec.Raw(b"")
        self._searches = Searches()
        self._model_version: Any = None
        self._is_begun = False
        self._is_finished = False
        self._parts = 0
        self._calls = 0
        self._open: type[Text | Thinking] | None = None

    def read(self, event: ServerSentEvent) -> Sequence[StreamEvent]:
        if not event.data.strip():
            return ()
        chunk = read_response(event.data)
        if bytes(chunk.error) not in {b"", b"null"}:
            self._fail(chunk, event.data)
        self._is_begun = True
        self.provider_request_id = self.provider_request_id or first_id(chunk.response_id)
        events: list[StreamEvent] = []
        for candidate in chunk.candidates or ():
            self._searches.add(candidate.grounding_metadata)
            if not candidate.index and not self._is_finished:
                self._candidate(candidate, events)
        if not chunk.candidates and chunk.is_blocked and not self._is_finished:
            self._finish(Finished("content_filter"), events)
        self._count(chunk, grew=any(isinstance(each, PartGrew) for each in events))
        return events

    def _fail(self, chunk: Response, data: bytes) -> None:
        """Raise what an error in the place of a chunk stands for."""
        if self._is_begun or reports_use(chunk.usage_metadata):
            raise OutcomeUnknown("the provider broke its answer off with an error, and may bill what it sent")
        try:
            code = msgspec.json.decode(chunk.error).get("code")
        except (*UNREADABLE, AttributeError):
            code = None
        if not isinstance(code, int) or not 400 <= code < 600:
            raise OutcomeUnknown("the provider sent an error in place of an answer, and no status with it")
        raise refused(WireResponse(code, {}, data), self._secret)

    def _count(self, chunk: Response, *, grew: bool) -> None:
        """Take a chunk's counts, which are those of the answer so far: the last ones count."""
        self._model_version = chunk.model_version or self._model_version
        if bytes(chunk.usage_metadata) in {b"", b"null"}:
            self.is_behind = self.is_behind or grew
        else:
            self.is_behind = False
            self._usage_block = chunk.usage_metadata
        self.usage = read_usage(self._usage_block, self._searches.count(self._model_version))

    def _candidate(self, candidate: Candidate, events: list[StreamEvent]) -> None:
        for part in candidate.parts:
            if part.function_call is not None:
                self._call(part, events)
            elif isinstance(part.text, str) and part.text:
                kind = Thinking if part.thought else Text
                if self._open is not kind:
                    self._close(events)
                    self._open = kind
                    events.append(PartBegun(self._parts, kind("")))
                events.append(PartGrew(self._parts, part.text))
        if candidate.finish_reason:
            self._finish(Finished(finish_reason(candidate.finish_reason, calls=self._calls > 0)), events)

    def _call(self, part: AnswerPart, events: list[StreamEvent]) -> None:
        assert part.function_call is not None, "only calls come here"
        self._close(events)
        call = tool_call(part.function_call, part.signature, self.provider_request_id, self._calls)
        events += (
            PartBegun(self._parts, ToolCall(call.id, call.name, "")),
            PartGrew(self._parts, call.arguments, call.signature),
            PartEnded(self._parts),
        )
        self._parts += 1
        self._calls += 1

    def _close(self, events: list[StreamEvent]) -> None:
        if self._open is not None:
            events.append(PartEnded(self._parts))
            self._parts += 1
            self._open = None

    def _finish(self, finished: Finished, events: list[StreamEvent]) -> None:
        self._close(events)
        events.append(finished)
        self._is_finished = True

"""Writing one streamed answer as the events of the Responses API."""

from typing import Any

import msgspec

from tollhouse.completions.wire.base import AnswerHead, Asked
from tollhouse.completions.wire.responses.answer import (
    encode,
    ended,
    item,
    item_id,
    response_object,
    summary_part,
    text_part,
)
from tollhouse.providers.conversation import (
    Finished,
    FinishReason,
    PartBegun,
    PartEnded,
    PartGrew,
    StreamEvent,
    Text,
    Thinking,
    ToolCall,
)
from tollhouse.providers.sse import encode_event
from tollhouse.providers.usage import Usage

_DELTAS: dict[type[Text | ToolCall | Thinking], str] = {
    Text: "response.output_text.delta",
    ToolCall: "response.function_call_arguments.delta",
    Thinking: "response.reasoning_summary_text.delta",
}


class _Open(msgspec.Struct):
    """A part that goes on."""

    part: Text | ToolCall | Thinking
    place: int
    """The index of its item in the output."""
    own_id: str
    pieces: list[str]
    signature: str | None = None


class ResponsesStreamWriter:
    """Writes one stream; each part of the answer is an item of the response.

    A refusal goes out as text: its words come before anybody can know that they refuse.
    """

    def __init__(self, asked: Asked, head: AnswerHead) -> None:
        self._head = head
        self._response = response_object(head, asked)
        self._sequence = 0
        self._open: dict[int, _Open] = {}
        self._items: dict[int, dict[str, Any]] = {}
        self._places = 0
        self._finish_reason: FinishReason = "stop"

    def begin(self) -> bytes:
        created = self._event("response.created", {"response": self._response})
        return created + self._event("response.in_progress", {"response": self._response})

    def write(self, event: StreamEvent) -> bytes:
        if isinstance(event, PartGrew):
            return self._grow(self._open[event.index], event)
        if isinstance(event, PartBegun):
            return self._begin_part(event)
        if isinstance(event, PartEnded):
            return self._end_part(event.index)
        assert isinstance(event, Finished)
        self._finish_reason = event.finish_reason
        return b""

    def end(self, usage: Usage) -> bytes:
        unfinished = b"".join([self._end_part(index) for index in list(self._open)])
        output = [self._items[place] for place in sorted(self._items)]
        response = ended(self._response, output, self._finish_reason, usage)
        return unfinished + self._event(f"response.{response['status']}", {"response": response})

    def _begin_part(self, event: PartBegun) -> bytes:
        part = event.part
        opened = _Open(part, self._places, item_id(part, self._head, self._places), [])
        self._open[event.index] = opened
        self._places += 1
        empty: dict[str, Any] = {**item(part, opened.own_id), "status": "in_progress"}
        if isinstance(part, Text):
            empty["content"] = []
        elif isinstance(part, ToolCall):
            empty["arguments"] = ""
        else:
            empty["summary"] = []
        begun = self._event("response.output_item.added", {"output_index": opened.place, "item": empty})
        if isinstance(part, Text):
            begun += self._event("response.content_part.added", {**_content_at(opened), "part": text_part("")})
        text = part.arguments if isinstance(part, ToolCall) else part.text
        return begun + self._grow(opened, PartGrew(event.index, text)) if text else begun

    def _grow(self, opened: _Open, event: PartGrew) -> bytes:
        if event.signature is not None:
            opened.signature = event.signature
        if not event.text:
            return b""
        part = opened.part
        begun = b""
        if isinstance(part, Thinking) and not opened.pieces:
            begun = self._event(
                "response.reasoning_summary_part.added", {**_summary_at(opened), "part": summary_part("")}
            )
        opened.pieces.append(event.text)
        said = {**_at(opened), "delta": event.text}
        return begun + self._event(_DELTAS[type(part)], said)

    def _end_part(self, index: int) -> bytes:
        opened = self._open.pop(index)
        part, text = opened.part, "".join(opened.pieces)
        events = b""
        if isinstance(part, Text):
            part = Text(text)
            events = self._event("response.output_text.done", {**_at(opened), "text": text})
            events += self._event("response.content_part.done", {**_content_at(opened), "part": text_part(text)})
        elif isinstance(part, ToolCall):
            if not text:
                events, text = self._grow(opened, PartGrew(index, "{}")), "{}"
            part = ToolCall(part.id, part.name, text, opened.signature or part.signature)
            done = {**_at(opened), "name": part.name, "arguments": text}
            events += self._event("response.function_call_arguments.done", done)
        else:
            part = Thinking(text, opened.signature or part.signature, part.redacted)
            if text:
                done = {**_at(opened), "text": text}
                events = self._event("response.reasoning_summary_text.done", done)
                done = {**_summary_at(opened), "part": summary_part(text)}
                events += self._event("response.reasoning_summary_part.done", done)
        whole = self._items[opened.place] = item(part, opened.own_id)
        return events + self._event("response.output_item.done", {"output_index": opened.place, "item": whole})

    def _event(self, kind: str, said: dict[str, Any]) -> bytes:
        data = encode({"type": kind, "sequence_number": self._sequence, **said})
        self._sequence += 1
        return encode_event(data, kind)


def _at(opened: _Open) -> dict[str, Any]:
    """Return where a piece of a part belongs."""
    if isinstance(opened.part, Text):
        return {**_content_at(opened), "logprobs": []}
    if isinstance(opened.part, Thinking):
        return _summary_at(opened)
    return {"item_id": opened.own_id, "output_index": opened.place}


def _content_at(opened: _Open) -> dict[str, Any]:
    return {"item_id": opened.own_id, "output_index": opened.place, "content_index": 0}


def _summary_at(opened: _Open) -> dict[str, Any]:
    return {"item_id": opened.own_id, "output_index": opened.place, "summary_index": 0}

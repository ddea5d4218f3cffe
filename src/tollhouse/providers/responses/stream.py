"""Reading a streamed answer of OpenAI's Responses API, event by event."""

from collections.abc import Hashable, Sequence
from typing import Any

import msgspec

from tollhouse.providers.base import OutcomeUnknown, ProviderError
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
from tollhouse.providers.parsing import UNREADABLE, first_id
from tollhouse.providers.responses.reply import (
    Reply,
    call_id,
    failed,
    finish_reason,
    is_client_call,
    is_refusal,
    is_search,
    message_texts,
    output_items,
    reasoning_text,
    text_of,
    usage_of,
)
from tollhouse.providers.sse import ServerSentEvent
from tollhouse.providers.usage import Usage

_DONE = b"[DONE]"
_OVER = frozenset({"response.completed", "response.incomplete"})
_TEXT_DELTAS = frozenset({"response.output_text.delta", "response.refusal.delta"})
_THINKING_DELTAS = frozenset({"response.reasoning_summary_text.delta", "response.reasoning_text.delta"})


class _Event(msgspec.Struct):
    type: Any = None
    delta: Any = None
    output_index: Any = None
    content_index: Any = None
    summary_index: Any = None
    item: Any = None
    response: Reply | None = None
    error: Any = None
    code: Any = None
    message: Any = None
    param: Any = None


class _Part(msgspec.Struct):
    """A part that goes on."""

    index: int
    has_text: bool = False
    section: Any = None
    """Of reasoning, which of its summaries goes on: they are set apart by an empty line."""


_decoder = msgspec.json.Decoder(_Event)


class ResponsesStreamReader:
    """Reads one stream.

    Args:
        secret: the key the call was made with, which is taken out of any reason passed on.
    """

    def __init__(self, secret: str) -> None:
        self.usage: Usage | None = None
        # Usage comes with the end, and with nothing else.
        self.is_behind = False
        self.thinks_unseen = False
        self.provider_request_id: str | None = None
        self._secret = secret
        self._has_output = False
        self._open: dict[tuple[int, Hashable], _Part] = {}
        self._parts = 0
        self._done: set[int] = set()
        self._searches = 0
        self._refuses = False
        self._has_calls = False
        self._is_finished = False

    def read(self, event: ServerSentEvent) -> Sequence[StreamEvent]:
        data = event.data.strip()
        if not data or data == _DONE:
            return ()
        try:
            said = _decoder.decode(data)
        except UNREADABLE as error:
            raise OutcomeUnknown("an event of the provider's stream cannot be read") from error
        kind = text_of(said.type) or event.name
        if kind in {"error", "response.failed"} or (said.error and not said.type):
            raise self._failure(said)
        if said.response is not None and self.provider_request_id is None:
            self.provider_request_id = first_id(said.response.id)
        events: list[StreamEvent] = []
        if not self._is_finished:
            self._read(kind, said, events)
        return events

    def _read(self, kind: str, said: _Event, events: list[StreamEvent]) -> None:
        place = said.output_index if isinstance(said.output_index, int) else 0
        if kind in _TEXT_DELTAS:
            self._refuses = self._refuses or kind == "response.refusal.delta"
            within = said.content_index if isinstance(said.content_index, int) else 0
            self._grow((place, within), Text(""), text_of(said.delta), events)
        elif kind == "response.function_call_arguments.delta":
            self._grow((place, "call"), ToolCall("", "", ""), text_of(said.delta), events)
        elif kind in _THINKING_DELTAS:
            self._think(place, said, events)
        elif kind == "response.output_item.added" and isinstance(said.item, dict):
            self._has_output = True
            self.thinks_unseen = self.thinks_unseen or said.item.get("type") == "reasoning"
            self._begin_call(place, said.item, events)
        elif kind == "response.output_item.done" and isinstance(said.item, dict):
            self._has_output = True
            self._end_item(place, said.item, events)
        elif kind in _OVER and said.response is not None:
            self._finish(said.response, events)

    def _begin_call(self, place: int, item: dict[str, Any], events: list[StreamEvent]) -> None:
        if item.get("type") == "function_call" and (place, "call") not in self._open:
            self._begin((place, "call"), ToolCall(call_id(item), text_of(item.get("name")), ""), events)

    def _think(self, place: int, said: _Event, events: list[StreamEvent]) -> None:
        text = text_of(said.delta)
        known = self._open.get((place, "thinking"))
        if text and known is not None and known.has_text and known.section != said.summary_index:
            text = "\n\n" + text
        if text:
            self._grow((place, "thinking"), Thinking(""), text, events).section = said.summary_index

    def _begin(self, key: tuple[int, Hashable], part: Text | ToolCall | Thinking, events: list[StreamEvent]) -> _Part:
        self._has_output = True
        begun = self._open[key] = _Part(self._parts)
        self._parts += 1
        events.append(PartBegun(begun.index, part))
        return begun

    def _grow(
        self, key: tuple[int, Hashable], empty: Text | ToolCall | Thinking, text: str, events: list[StreamEvent]
    ) -> _Part:
        part = self._open.get(key) or self._begin(key, empty, events)
        if text:
            part.has_text = True
            events.append(PartGrew(part.index, text))
        return part

    def _end_item(self, place: int, item: dict[str, Any], events: list[StreamEvent]) -> None:
        """End the parts of an item, which is whole now: what did not come in pieces comes from it."""
        if place in self._done:
            return
        self._done.add(place)
        self.thinks_unseen = self.thinks_unseen or item.get("type") == "reasoning"
        self._searches += is_search(item)
        self._has_calls = self._has_calls or is_client_call(item)
        kind = item.get("type")
        if kind == "message":
            self._refuses = self._refuses or is_refusal(item)
            for within, text in message_texts(item):
                if (place, within) not in self._open:
                    self._grow((place, within), Text(""), text, events)
        elif kind == "function_call":
            self._begin_call(place, item, events)
            if not self._open[place, "call"].has_text:
                self._grow((place, "call"), Text(""), text_of(item.get("arguments")) or "{}", events)
        elif kind == "reasoning":
            self._end_reasoning(place, item, events)
        ended = [key for key in self._open if key[0] == place]
        events += [PartEnded(self._open.pop(key).index) for key in ended]

    def _end_reasoning(self, place: int, item: dict[str, Any], events: list[StreamEvent]) -> None:
        sealed = text_of(item.get("encrypted_content")) or None
        part = self._open.get((place, "thinking"))
        if part is None and (text := reasoning_text(item)):
            part = self._grow((place, "thinking"), Thinking(""), text, events)
        if part is None and sealed is not None:
            self._begin((place, "thinking"), Thinking("", redacted=sealed), events)
        elif part is not None and sealed is not None:
            events.append(PartGrew(part.index, signature=sealed))

    def _finish(self, reply: Reply, events: list[StreamEvent]) -> None:
        items = output_items(reply)
        if not self._done and not self._open:
            # A server that streams the end alone says everything there.
            for place, item in enumerate(items):
                self._end_item(place, item, events)
        events += [PartEnded(part.index) for part in self._open.values()]
        self._open.clear()
        self._is_finished = True
        self.usage = usage_of(reply, max(self._searches, sum(map(is_search, items))))
        refuses = self._refuses or any(map(is_refusal, items))
        has_calls = self._has_calls or any(map(is_client_call, items))
        events.append(Finished(finish_reason(reply, refuses=refuses, has_calls=has_calls)))

    def _failure(self, said: _Event) -> ProviderError:
        reply = said.response or Reply()
        if self.usage is None:
            self.usage = usage_of(reply, self._searches)
        error = said.error or reply.error
        if not error and (said.code or said.message):
            error = {"code": said.code, "message": said.message}
        has_output = self._has_output or bool(reply.output)
        return failed(error, usage=reply.usage, has_output=has_output, secret=self._secret)

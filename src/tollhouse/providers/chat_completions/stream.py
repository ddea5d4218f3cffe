"""Reading a streamed chat completion, chunk by chunk."""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from tollhouse.providers.base import OutcomeUnknown, ProviderError, WireResponse
from tollhouse.providers.chat_completions.answer import searched
from tollhouse.providers.chat_completions.content import (
    Kind,
    arguments_text,
    finish_reason,
    first_text,
    function_of,
    made_up_id,
    pieces,
    signature_of,
)
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
from tollhouse.providers.parsing import ABSENT, UNREADABLE, first_id, reports_use
from tollhouse.providers.refusals import VendorError, failure, overloaded, vendor_error
from tollhouse.providers.sse import ServerSentEvent
from tollhouse.providers.usage import Usage

_DONE = b"[DONE]"
_NULL = b"null"


class _Delta(msgspec.Struct):
    content: Any = None
    refusal: Any = None
    reasoning_content: Any = None
    reasoning: Any = None
    tool_calls: Any = None
    annotations: Any = None


class _Choice(msgspec.Struct):
    index: Any = 0
    delta: _Delta | None = None
    finish_reason: Any = None


class _Chunk(msgspec.Struct):
    choices: list[_Choice] | None = None
    usage: msgspec.Raw = ABSENT
    error: Any = None
    id: Any = None
    model: Any = None
    object: Any = None


class _Call(msgspec.Struct):
    """A tool call that goes on; ``part`` is None until its name is known."""

    id: str
    name: str = ""
    part: int | None = None
    held: str = ""
    has_arguments: bool = False


_decoder = msgspec.json.Decoder(_Chunk)


class ChatStreamReader:
    """Reads one stream; of several choices, the events are those of the first.

    Args:
        read_usage: the vendor's counting.
        secret: the key the call was made with, which is taken out of any reason passed on.
        is_operators: recognises errors of the operator's account that come under the caller's statuses.
        counts_searches: the vendor bills its search tool by use.
        hides_thinking: recognises models, by name, whose thinking is billed and not shown.
    """

    def __init__(
        self,
        read_usage: Callable[[msgspec.Raw], Usage | None],
        *,
        secret: str,
        is_operators: Callable[[VendorError], bool],
        counts_searches: bool = False,
        hides_thinking: Callable[[str], bool] | None = None,
    ) -> None:
        self.usage: Usage | None = None
        self.is_behind = False
        self.thinks_unseen = False
        self.provider_request_id: str | None = None
        self._read_usage = read_usage
        self._secret = secret
        self._is_operators = is_operators
        self._counts_searches = counts_searches
        self._hides_thinking = hides_thinking
        self._has_searched = False
        self._has_begun = False
        self._parts = 0
        self._open: tuple[Kind, int] | None = None
        self._calls: dict[int, _Call] = {}
        self._all_calls: list[_Call] = []
        self._is_refusal = False
        self._reason: Any = None
        self._choices: set[int] = set()
        self._ended: set[int] = set()
        self._is_finished = False

    def read(self, event: ServerSentEvent) -> Sequence[StreamEvent]:
        data = event.data.strip()
        if not data:
            return ()
        events: list[StreamEvent] = []
        if data == _DONE:
            if self._choices:
                self._finish(events)
            return events
        try:
            chunk = _decoder.decode(data)
        except UNREADABLE as error:
            raise OutcomeUnknown("an event of the provider's stream cannot be read as a chat completion") from error
        if chunk.error or chunk.object == "error" or event.name == "error":
            raise self._failure(data, chunk)
        if not self._has_begun:
            self._has_begun = True
            self.thinks_unseen = self._is_of_thinker(chunk.model)
        if self.provider_request_id is None:
            self.provider_request_id = first_id(chunk.id)
        for choice in chunk.choices or ():
            self._read_choice(choice, chunk.model, events)
        self._read_usage_of(chunk, grew=any(isinstance(each, PartGrew) for each in events))
        if self._choices and self._choices == self._ended:
            self._finish(events)
        return events

    def _is_of_thinker(self, model: Any) -> bool:
        return self._hides_thinking is not None and isinstance(model, str) and self._hides_thinking(model)

    def _read_usage_of(self, chunk: _Chunk, *, grew: bool) -> None:
        """Take over what was used so far: servers that repeat it in every chunk count on, so the last one holds."""
        if bytes(chunk.usage) in {b"", _NULL}:
            self.is_behind = self.is_behind or grew
        else:
            self.usage = self._read_usage(chunk.usage)
            self.is_behind = False
        if self.usage is not None and self._has_searched and not self.usage.web_searches:
            self.usage = msgspec.structs.replace(self.usage, web_searches=1)

    def _read_choice(self, choice: _Choice, model: Any, events: list[StreamEvent]) -> None:
        index = choice.index if isinstance(choice.index, int) else 0
        self._choices.add(index)
        delta = choice.delta
        if self._counts_searches and not self._has_searched:
            self._has_searched = searched(model, delta.annotations if delta else None)
        if index in self._ended or self._is_finished:
            return
        if index == 0 and delta is not None:
            self._read_delta(delta, events)
        if isinstance(choice.finish_reason, str) and choice.finish_reason:
            self._ended.add(index)
            if index == 0:
                self._reason = choice.finish_reason
                self._end_parts(events)

    def _read_delta(self, delta: _Delta, events: list[StreamEvent]) -> None:
        self._grow("thinking", first_text(delta.reasoning_content, delta.reasoning), events)
        for kind, text in pieces(delta.content):
            self._grow(kind, text, events)
        if isinstance(delta.refusal, str) and delta.refusal:
            self._is_refusal = True
            self._grow("text", delta.refusal, events)
        for entry in delta.tool_calls if isinstance(delta.tool_calls, list) else ():
            if isinstance(entry, dict):
                self._read_call(entry, events)

    def _grow(self, kind: Kind, text: str, events: list[StreamEvent]) -> None:
        if not text:
            return
        if self._open is None or self._open[0] != kind:
            self._end_open(events)
            self._open = (kind, self._new_part())
            events.append(PartBegun(self._open[1], Text("") if kind == "text" else Thinking("")))
        events.append(PartGrew(self._open[1], text))

    def _read_call(self, entry: dict[str, Any], events: list[StreamEvent]) -> None:
        function = function_of(entry)
        call = self._call_of(entry, first_text(function.get("name")))
        call.held += arguments_text(function.get("arguments"))
        signature = signature_of(entry)
        if call.part is None:
            if not call.name:
                return
            self._end_open(events)
            call.part = self._new_part()
            events.append(PartBegun(call.part, ToolCall(call.id, call.name, "")))
        if call.held or signature is not None:
            events.append(PartGrew(call.part, call.held, signature))
            call.has_arguments = call.has_arguments or bool(call.held)
            call.held = ""

    def _call_of(self, entry: dict[str, Any], name: str) -> _Call:
        """Return the call that a piece belongs to, which may begin with it.

        Pieces are told apart by their index. Some servers send none, or 0 with every call, and send each call whole:
        another id, or a name without an index, begins another call.
        """
        index, call_id = entry.get("index"), first_text(entry.get("id"))
        last = self._all_calls[-1] if self._all_calls else None
        known = self._calls.get(index) if isinstance(index, int) else last
        is_another = known is None or (call_id not in {"", known.id} and bool(name))
        if not isinstance(index, int) and name and not call_id:
            is_another = True
        if known is None or is_another:
            known = _Call(call_id or made_up_id())
            self._all_calls.append(known)
            if isinstance(index, int):
                self._calls[index] = known
        known.name = known.name or name
        return known

    def _new_part(self) -> int:
        self._parts += 1
        return self._parts - 1

    def _end_open(self, events: list[StreamEvent]) -> None:
        if self._open is not None:
            events.append(PartEnded(self._open[1]))
            self._open = None

    def _end_parts(self, events: list[StreamEvent]) -> None:
        self._end_open(events)
        for call in self._all_calls:
            if call.part is not None:
                if not call.has_arguments:
                    events.append(PartGrew(call.part, "{}"))
                events.append(PartEnded(call.part))
                call.part = None

    def _finish(self, events: list[StreamEvent]) -> None:
        """End the answer, once: when all choices that began are over, or where the server leaves that to its end."""
        if self._is_finished:
            return
        self._is_finished = True
        self._end_parts(events)
        has_calls = any(call.name for call in self._all_calls)
        reason = finish_reason(self._reason, has_calls=has_calls)
        events.append(Finished("refusal" if self._is_refusal else reason))

    def _failure(self, data: bytes, chunk: _Chunk) -> ProviderError:
        """Return what an error within the stream stands for; before anything that may be billed, it is free."""
        if self._has_begun:
            return OutcomeUnknown("the provider broke the answer off with an error, and may bill what it had made")
        if reports_use(chunk.usage):
            return OutcomeUnknown("the provider answered with an error, yet reported usage that it may bill")
        body = data if chunk.error or chunk.object == "error" else b'{"error":%b}' % data
        reported = vendor_error(body)
        if reported is None:
            return OutcomeUnknown("the provider answered with an error that cannot be read")
        status = _status(chunk.error)
        if status is None:
            return overloaded(WireResponse(200, {}, body), reported)
        return failure(WireResponse(status, {}, body), secret=self._secret, is_operators=self._is_operators)


def _status(error: Any) -> int | None:
    """Return the HTTP status that an error within a stream would have had, where it says so."""
    code = error.get("code") if isinstance(error, dict) else None
    if isinstance(code, int) and not isinstance(code, bool) and 400 <= code < 600:
        return code
    return 400 if isinstance(error, dict) and error.get("type") == "invalid_request_error" else None

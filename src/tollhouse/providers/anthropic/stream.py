"""A streamed answer of the Messages API, event by event."""

import re
from collections.abc import Sequence
from typing import Any

import msgspec

from tollhouse.providers.anthropic.answer import FINISH, Block, is_operators, part_of, usage_of
from tollhouse.providers.base import OutcomeUnknown, ProviderError, WireResponse
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
from tollhouse.providers.refusals import failure, vendor_error
from tollhouse.providers.sse import ServerSentEvent
from tollhouse.providers.usage import Usage

# The status that an error would have had, had it come instead of a stream; for others it is the server's own fault.
_STATUSES = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
_SERVER_ERROR = 500
_CODE = re.compile(r"[A-Za-z_]{1,40}")
_NULL = b"null"


class _Message(msgspec.Struct):
    id: Any = None
    usage: msgspec.Raw = ABSENT


class _Delta(msgspec.Struct):
    text: Any = None
    thinking: Any = None
    signature: Any = None
    partial_json: Any = None
    stop_reason: Any = None
    stop_sequence: Any = None


class _Event(msgspec.Struct):
    type: str
    index: int = -1
    message: _Message | None = None
    content_block: Block | None = None
    delta: _Delta | None = None
    usage: msgspec.Raw = ABSENT


class _Open(msgspec.Struct):
    """A block that has begun.

    Attributes:
        number: the part's; None for a block that is no part.
        arguments: of a tool call, what it began with, as long as nothing else has come; None for other parts.
    """

    number: int | None
    arguments: str | None = None


_decoder = msgspec.json.Decoder(_Event)
_fields_decoder = msgspec.json.Decoder(dict[str, msgspec.Raw])
_encoder = msgspec.json.Encoder()


class MessagesReader:
    """Reads one stream of the Messages API.

    Args:
        secret: the key the call was made with, which is taken out of any reason passed on.
    """

    usage: Usage | None
    is_behind: bool
    thinks_unseen: bool
    provider_request_id: str | None

    def __init__(self, *, secret: str) -> None:
        self.usage = None
        # What a stream begins with tells of the input alone.
        self.is_behind = True
        self.thinks_unseen = False
        self.provider_request_id = None
        self._secret = secret
        self._reported: dict[str, msgspec.Raw] = {}
        self._open: dict[int, _Open] = {}
        self._parts = 0
        self._has_begun = False
        self._has_finished = False
        self._has_ended = False

    def read(self, event: ServerSentEvent) -> Sequence[StreamEvent]:
        if self._has_ended or not event.data:
            return ()
        try:
            read = _decoder.decode(event.data)
            if event.name == "error" or read.type == "error":
                raise self._failure(event, read.usage)
            return self._events(read)
        except UNREADABLE as error:
            raise OutcomeUnknown("an event of the provider's stream cannot be read") from error

    def _events(self, read: _Event) -> Sequence[StreamEvent]:
        match read.type:
            case "content_block_delta":
                return self._grown(read)
            case "content_block_start":
                return self._begun(read)
            case "content_block_stop":
                return self._ended(read.index)
            case "message_start":
                self._has_begun = True
                if read.message is not None:
                    self.provider_request_id = first_id(read.message.id)
                    self._report(read.message.usage)
            case "message_delta":
                return self._finished(read)
            case "message_stop":
                self._has_ended = True
            case _:
                # Pings, and what is yet to come: Anthropic asks its clients to let them pass.
                pass
        return ()

    def _begun(self, read: _Event) -> Sequence[StreamEvent]:
        self._has_begun = True
        events = [*self._ended(read.index)]
        part = None if read.content_block is None else part_of(read.content_block)
        if part is None:
            self._open[read.index] = _Open(None)
            return events
        number, self._parts = self._parts, self._parts + 1
        arguments = None
        match part:
            case ToolCall():
                events.append(PartBegun(number, ToolCall(part.id, part.name, "")))
                arguments = part.arguments
            case Text():
                events.append(PartBegun(number, Text("")))
                if part.text:
                    events.append(PartGrew(number, part.text))
            case Thinking():
                # It is billed in full, and shown as a summary or not at all.
                self.thinks_unseen = True
                events.append(PartBegun(number, Thinking("", redacted=part.redacted)))
                if part.text or part.signature:
                    events.append(PartGrew(number, part.text, part.signature or None))
        self._open[read.index] = _Open(number, arguments)
        return events

    def _grown(self, read: _Event) -> Sequence[StreamEvent]:
        block, delta = self._open.get(read.index), read.delta
        if block is None or block.number is None or delta is None:
            return ()
        for text in (delta.text, delta.thinking, delta.partial_json):
            if isinstance(text, str) and text:
                if block.arguments is not None:
                    block.arguments = ""
                return (PartGrew(block.number, text),)
        if isinstance(delta.signature, str) and delta.signature:
            return (PartGrew(block.number, signature=delta.signature),)
        return ()

    def _ended(self, index: int) -> Sequence[StreamEvent]:
        block = self._open.pop(index, None)
        if block is None or block.number is None:
            return ()
        if block.arguments:
            # A call without arguments may come without a single piece of them: an empty object all the same.
            return (PartGrew(block.number, block.arguments), PartEnded(block.number))
        return (PartEnded(block.number),)

    def _finished(self, read: _Event) -> Sequence[StreamEvent]:
        self._has_begun = True
        if self._report(read.usage):
            self.is_behind = False
        delta = read.delta
        if self._has_finished or delta is None or not isinstance(delta.stop_reason, str):
            return ()
        self._has_finished = True
        ended = [event for index in tuple(self._open) for event in self._ended(index)]
        stop_sequence = delta.stop_sequence if isinstance(delta.stop_sequence, str) else None
        return (*ended, Finished(FINISH.get(delta.stop_reason, "other"), stop_sequence))

    def _report(self, usage: msgspec.Raw) -> bool:
        """Take a usage block, and return whether it tells of the output.

        Its counts are totals so far, and what it leaves out is as it was.
        """
        if not bytes(usage):
            return False
        try:
            fields = _fields_decoder.decode(usage)
        except UNREADABLE:
            # What it said is unknown, and what was said before is out of date.
            self.usage = None
            return False
        told = {name: value for name, value in fields.items() if bytes(value) != _NULL}
        self._reported |= told
        self.usage = usage_of(msgspec.Raw(_encoder.encode(self._reported)))
        return "output_tokens" in told

    def _failure(self, event: ServerSentEvent, usage: msgspec.Raw) -> ProviderError:
        error = vendor_error(event.data)
        kind = next((code for code in error.codes if _CODE.fullmatch(code)), "") if error else ""
        if self._has_begun or reports_use(usage):
            said = f" ({kind})" if kind else ""
            return OutcomeUnknown(f"the provider broke its answer off{said}, and may bill it")
        status = _STATUSES.get(kind, _SERVER_ERROR)
        return failure(WireResponse(status, {}, event.data), secret=self._secret, is_operators=is_operators)

"""What a fake provider is told to do, and what it notes down about each call."""

from typing import Any, Literal, get_args

import msgspec

Format = Literal["anthropic", "openai", "deepseek", "gemini"]
"""The vendors. Each is answered in all of its APIs that the fake speaks; a receipt's path says which it was."""

Cut = Literal["eof", "close", "reset"]
Reset = Literal["before_answer", "mid_answer"]
Reporting = Literal["reported", "omitted", "zero", "malformed"]

# Ways for a stream to end before it is whole.
_ENDINGS = ("cut_after_events", "error_after_events", "hang_after_events")


class ToolCall(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A call that the model wants made.

    Raises:
        ValueError: it names no tool.
    """

    name: str
    arguments: dict[str, Any] = {}

    def __post_init__(self) -> None:
        if not self.name:
            raise ValueError("name: expected a tool's name, found none")


class Behaviour(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How a call is answered. The token classes are disjoint: each token is in one of them.

    Raises:
        ValueError: a field has a value that cannot be meant.
    """

    content: str = "The quick brown fox jumps over the lazy dog."
    """The text answered, cut to as many words as output tokens are left for it."""
    tool_call: ToolCall | None = None
    """Answer with a call of this tool, and no text. It is never cut; it costs a token for its name and one for each
    piece of its arguments (a word, or what stands between two), unless ``output_tokens`` says otherwise."""
    input_tokens: int | None = None
    """Input in no cache class; None: the prompt's UTF-8 bytes divided by ``bytes_per_token``, rounded up. Texts and
    the definitions of tools are counted, the bytes of images and documents are not."""
    bytes_per_token: int = 4
    output_tokens: int | None = None
    """Visible output, at most what ``max_tokens`` leaves; None: one token a word of the content."""
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0
    """Formats without a class for cache writes, or for those of an hour, count them in the next coarser one."""
    reasoning_tokens: int = 0
    """Within ``max_tokens``, and taken from it before visible output."""
    use_full_max_tokens: bool = False
    """The output, reasoning included, is ``max_tokens`` exactly."""
    output_factor: float | None = None
    """The output, reasoning included, is this many times ``max_tokens``: 2.0 disregards the limit."""
    delay_s: float = 0.0
    """Seconds between a call's arrival and its answer, or the first event of a stream."""
    chunk_delay_s: float = 0.0
    """Seconds between two events of a stream; without, events share a write as far as they fit."""
    cut_after_events: int | None = None
    """End a stream after so many events, as ``cut`` says. This and the next two, of which a behaviour has one at most,
    count events from 1, take effect after the last one at the latest, and leave whole answers alone. Such a call is
    billed as if it had been answered to its end; what was sent stands in the receipt."""
    cut: Cut = "eof"
    """``eof`` ends the body as a whole answer ends, ``close`` closes the connection within the body, ``reset`` resets
    it."""
    error_after_events: int | None = None
    """End a stream after so many events with the vendor's error event; with 0, as its only event, the call is not
    billed."""
    hang_after_events: int | None = None
    """Send no more than so many events of a stream, and keep the connection open; with 0 its head alone is sent."""
    status: int | None = None
    """Answer this HTTP status with the vendor's own error object; such a call is not billed."""
    reason: str = "The fake provider was told to refuse this call."
    """The message of that error."""
    bare: bool = False
    """The error is an intermediary's page without the vendor's error object; behind a 502 or 504 the call is billed."""
    retry_after_s: float | None = None
    """Sent with an error, where the vendor says it: in a header, or in Google's RetryInfo."""
    hang: bool = False
    """Never answer; the call is billed."""
    reset: Reset | None = None
    """Cut the connection with a TCP reset; the call is billed. A stream is cut ``mid_answer`` after its first event."""
    usage: Reporting = "reported"
    """``zero`` both reports and bills zero tokens; the others bill the same whatever they report."""
    garbage: bool = False
    """Answer 200 with a body that is no JSON, or with a stream whose second event is none; the call is billed."""
    gzip: bool = False
    """Send the body compressed."""
    no_keep_alive: bool = False
    """Close the connection after the answer."""

    def __post_init__(self) -> None:
        counts = (
            "input_tokens",
            "output_tokens",
            "cached_input_tokens",
            "cache_write_tokens",
            "cache_write_1h_tokens",
            "reasoning_tokens",
            "delay_s",
            "chunk_delay_s",
            *_ENDINGS,
            "retry_after_s",
            "output_factor",
        )
        for name in counts:
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ValueError(f"{name}: expected 0 or more, found {value}")
        if self.bytes_per_token < 1:
            raise ValueError(f"bytes_per_token: expected 1 or more, found {self.bytes_per_token}")
        if self.status is not None and not 200 <= self.status <= 599:
            raise ValueError(f"status: expected an HTTP status from 200 to 599, found {self.status}")
        if sum(getattr(self, name) is not None for name in _ENDINGS) > 1:
            raise ValueError(f"{', '.join(_ENDINGS)}: expected one of them at most")
        if self.cut not in get_args(Cut):
            raise ValueError(f"cut: expected one of {', '.join(get_args(Cut))}, found {self.cut!r}")
        if self.tool_call is not None and not isinstance(self.tool_call, ToolCall):
            raise ValueError(f"tool_call: expected a ToolCall, found {type(self.tool_call).__name__}")
        if self.reset is not None and self.reset not in get_args(Reset):
            raise ValueError(f"reset: expected one of {', '.join(get_args(Reset))}, found {self.reset!r}")
        if self.usage not in get_args(Reporting):
            raise ValueError(f"usage: expected one of {', '.join(get_args(Reporting))}, found {self.usage!r}")


class Tokens(msgspec.Struct, frozen=True):
    """Tokens in disjoint classes."""

    input_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_1h_tokens: int = 0
    output_tokens: int = 0
    reasoning_tokens: int = 0


class Receipt(msgspec.Struct, frozen=True, gc=False):
    """What the fake provider bills for one call, noted when the call arrived; JSON on one line of the receipts file."""

    id: str
    """Also the answer's id, in its body and in the vendor's request id header."""
    order: int
    """1 for the first call that arrived, and so on."""
    format: Format
    model: str
    path: str
    status: int | None
    """The HTTP status answered; None when there was to be no answer (``hang``, ``reset``)."""
    billed: bool
    """False for errors and for what costs nothing; calls whose answer got lost are billed, since the work was done."""
    input_tokens: int
    cached_input_tokens: int
    cache_write_tokens: int
    cache_write_1h_tokens: int
    output_tokens: int
    reasoning_tokens: int
    authenticated: bool
    """Whether the call carried a key, in whichever header; the key itself is not kept."""
    correlation_id: str | None
    """The caller's ``x-request-id`` or ``x-client-request-id``."""
    replayed: bool
    """The answer was a recorded exchange: its token counts are not read, and are zero here."""
    raw_request: msgspec.Raw = msgspec.field(name="request")
    streamed_events: int | None = None
    """Events handed to the connection so far; None for an answer that was not streamed. Of a receipt, this and the next
    field alone change after the call arrived: each reading of the receipts tells the latest, the file the first."""
    client_left_after: int | None = None
    """Events handed to the connection when the client closed it before the stream's end; None where it did not."""

    @property
    def request(self) -> Any:
        """The request's JSON body."""
        return msgspec.json.decode(self.raw_request)

    @property
    def total_tokens(self) -> int:
        return (
            self.input_tokens
            + self.cached_input_tokens
            + self.cache_write_tokens
            + self.cache_write_1h_tokens
            + self.output_tokens
            + self.reasoning_tokens
        )


class Exchange(msgspec.Struct, frozen=True):
    """A recorded answer of a real provider; what else was recorded is not needed."""

    status: int
    response: Any
    """The JSON body, or the body's text."""
    content_type: str | None = None
    stream: bool = False
    """The response is the text of an event stream, which is sent byte for byte, an event a chunk."""

    def __post_init__(self) -> None:
        if self.stream and not isinstance(self.response, str):
            raise ValueError(f"stream: expected the response's text, found {type(self.response).__name__}")

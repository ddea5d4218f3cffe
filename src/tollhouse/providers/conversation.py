"""The neutral model in the middle: what is asked of a model and what it answers, in no vendor's words.

Every format is translated into these types and out of them, so that any client format reaches any provider by way of
two functions. A value that stands for itself in one format alone has no place here: a format that cannot say a thing
refuses it by its name here (``InvalidRequest``), and never drops it.
"""

from collections.abc import Iterator
from typing import Any, Literal

import msgspec

from tollhouse.providers.usage import Usage

CacheMark = Literal["5m", "1h"]
"""The prompt up to and including a part is to be cached for this long; a hint, which vendors that cache by themselves
need not be told."""

FinishReason = Literal["stop", "length", "content_filter", "tool_calls", "refusal", "other"]
Role = Literal["system", "user", "assistant"]


class Text(msgspec.Struct, frozen=True, gc=False, tag="text"):
    """A piece of text."""

    text: str
    cache: CacheMark | None = None


class Media(msgspec.Struct, frozen=True, gc=False, tag="media"):
    """An image, a document or a recording: either its bytes in base64, or where the provider may fetch it.

    Attributes:
        media_type: such as ``image/png``; None where the address alone was given.
        name: a document's file name or title, if it was given one.
        detail: how closely an image is to be looked at, as OpenAI's ``detail``.
    """

    kind: Literal["image", "document", "audio"]
    media_type: str | None = None
    base64: str | None = None
    url: str | None = None
    name: str | None = None
    detail: Literal["low", "high", "auto"] | None = None
    cache: CacheMark | None = None


class ToolCall(msgspec.Struct, frozen=True, gc=False, tag="tool_call"):
    """The model wants a tool called.

    Attributes:
        id: pairs it with its result; made up where a vendor gives none.
        arguments: a JSON object, as text; "{}" for none.
        signature: what a vendor wants back with it (Google's thought signature).
    """

    id: str
    name: str
    arguments: str
    signature: str | None = None
    cache: CacheMark | None = None


class ToolResult(msgspec.Struct, frozen=True, gc=False, tag="tool_result"):
    """What a tool brought, in a turn of the user.

    Attributes:
        name: the tool's, found by the call's id where a format does not repeat it; "" if there is no such call.
    """

    call_id: str
    name: str
    content: "tuple[Text | Media, ...]"
    is_error: bool = False
    cache: CacheMark | None = None


class Thinking(msgspec.Struct, frozen=True, gc=False, tag="thinking"):
    """What the model thought before it answered; sent back, it is of use to the vendor that made it alone.

    Attributes:
        signature: that vendor's proof that the text is the model's own.
        redacted: what stands in the text's place where the vendor does not show it.
    """

    text: str
    signature: str | None = None
    redacted: str | None = None


Part = Text | Media | ToolCall | ToolResult | Thinking


class Message(msgspec.Struct, frozen=True, gc=False):
    """One turn of a conversation; a text stands for a single ``Text``."""

    role: Role
    content: str | tuple[Part, ...]

    @property
    def parts(self) -> tuple[Part, ...]:
        return (Text(self.content),) if isinstance(self.content, str) else self.content


class Tool(msgspec.Struct, frozen=True, gc=False):
    """A function that the model may ask to have called.

    Attributes:
        parameters: the JSON Schema of its arguments; None for none.
        is_strict: the schema is to be enforced, not only followed; None leaves it to the vendor.
    """

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    is_strict: bool | None = None
    cache: CacheMark | None = None


class ToolChoice(msgspec.Struct, frozen=True, gc=False):
    """Whether tools are to be called: as the model sees fit, not at all, at least one, or the one that is named."""

    mode: Literal["auto", "none", "required", "named"]
    name: str = ""


class Reasoning(msgspec.Struct, frozen=True, gc=False):
    """How much the model is to think; one of the two is set.

    Attributes:
        effort: in OpenAI's words; ``none`` switches thinking off.
        budget_tokens: the most tokens to think with; vendors that know efforts only get the one that comes closest.
    """

    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    budget_tokens: int | None = None


class ProviderRequest(msgspec.Struct, frozen=True, gc=False):
    """A completion as every adapter understands it."""

    model: str
    """The model's name at the provider."""
    messages: tuple[Message, ...]
    """At least one; system turns may stand anywhere."""
    max_tokens: int
    """The most output tokens the provider may make, thinking included."""
    temperature: float | None = None
    stop: tuple[str, ...] = ()
    response_schema: dict[str, Any] | None = None
    """A JSON Schema that the answer has to follow."""
    schema_name: str | None = None
    """What the schema is called, for vendors that want a name; they get ``response`` without one."""
    is_json: bool = False
    """The answer has to be some JSON object, of no given schema."""
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice | None = None
    allows_parallel_calls: bool | None = None
    """Whether several tools may be called in one turn; None leaves it to the vendor."""
    reasoning: Reasoning | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    user: str | None = None
    """An opaque id of the end user, for the vendor's detection of abuse."""
    stream: bool = False
    """Ask for the answer in events, the usage in the last of them."""


class ProviderAnswer(msgspec.Struct, frozen=True, gc=False):
    """A completion as it came back."""

    content: str
    """All of its text; the refusal's words where the model refused."""
    finish_reason: FinishReason
    usage: Usage | None
    """None when the provider reported none, or none that can be read; a reported zero is a zero."""
    provider_request_id: str | None = None
    parts: tuple[Text | ToolCall | Thinking, ...] = ()
    """Text, thinking and tool calls in the order they came; empty where the text is all there is."""
    stop_sequence: str | None = None
    """The stop sequence that ended it, where the vendor tells."""


# What a streamed answer is made of. Parts are numbered from 0 in the order they begin; they may overlap (parallel tool
# calls in OpenAI's format), and each ends before the answer does.


class PartBegun(msgspec.Struct, frozen=True, gc=False):
    """A part begins: empty, but for the id and name of a tool call and what stands for redacted thinking."""

    index: int
    part: Text | ToolCall | Thinking


class PartGrew(msgspec.Struct, frozen=True, gc=False):
    """A part goes on: text of a text or of thinking, or a piece of a tool call's arguments.

    Attributes:
        signature: of thinking or of a tool call, when it came.
    """

    index: int
    text: str = ""
    signature: str | None = None


class PartEnded(msgspec.Struct, frozen=True, gc=False):
    """A part is whole."""

    index: int


class Finished(msgspec.Struct, frozen=True, gc=False):
    """The model has come to its end; what follows is the usage at most."""

    finish_reason: FinishReason
    stop_sequence: str | None = None


StreamEvent = PartBegun | PartGrew | PartEnded | Finished


def events_of(answer: ProviderAnswer) -> Iterator[StreamEvent]:
    """Return a whole answer as the events of a stream."""
    for index, part in enumerate(answer.parts or ((Text(answer.content),) if answer.content else ())):
        match part:
            case Text():
                yield PartBegun(index, Text(""))
                yield PartGrew(index, part.text)
            case ToolCall():
                yield PartBegun(index, ToolCall(part.id, part.name, ""))
                yield PartGrew(index, part.arguments, part.signature)
            case Thinking():
                yield PartBegun(index, Thinking("", redacted=part.redacted))
                yield PartGrew(index, part.text, part.signature)
        yield PartEnded(index)
    yield Finished(answer.finish_reason, answer.stop_sequence)

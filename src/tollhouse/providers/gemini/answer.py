"""From a GenerateContentResponse, whole or one of a stream's, to the neutral answer."""

import hashlib
import secrets
from typing import Any

import msgspec

from tollhouse.providers.base import OutcomeUnknown
from tollhouse.providers.conversation import FinishReason, ProviderAnswer, Text, Thinking, ToolCall
from tollhouse.providers.gemini.usage import Searches, read_usage
from tollhouse.providers.parsing import ABSENT, UNREADABLE, first_id

_FINISH: dict[str | None, FinishReason] = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "SAFETY": "content_filter",
    "RECITATION": "content_filter",
    "BLOCKLIST": "content_filter",
    "PROHIBITED_CONTENT": "content_filter",
    "SPII": "content_filter",
    "MODEL_ARMOR": "content_filter",
    "IMAGE_SAFETY": "content_filter",
    "IMAGE_PROHIBITED_CONTENT": "content_filter",
    "IMAGE_RECITATION": "content_filter",
}


class FunctionCall(msgspec.Struct):
    """A call as Google writes it; from its third generation on with an id."""

    name: str
    args: msgspec.Raw = ABSENT
    id: Any = None


class AnswerPart(msgspec.Struct, rename="camel"):
    """A part of an answer; typed loosely, since parts of many kinds share this place."""

    text: Any = None
    thought: Any = None
    thought_signature: Any = None
    function_call: FunctionCall | None = None

    @property
    def signature(self) -> str | None:
        return self.thought_signature if isinstance(self.thought_signature, str) and self.thought_signature else None


class _Content(msgspec.Struct):
    parts: list[AnswerPart] | None = None


class Candidate(msgspec.Struct, rename="camel"):
    """One of the alternative answers, or in a stream a piece of one."""

    content: _Content | None = None
    finish_reason: str | None = None
    index: Any = 0
    grounding_metadata: Any = None

    @property
    def parts(self) -> list[AnswerPart]:
        return (self.content and self.content.parts) or []


class _Feedback(msgspec.Struct, rename="camel"):
    block_reason: Any = None


class Response(msgspec.Struct, rename="camel"):
    """A GenerateContentResponse."""

    candidates: list[Candidate] | None = None
    prompt_feedback: _Feedback | None = None
    usage_metadata: msgspec.Raw = ABSENT
    response_id: Any = None
    model_version: Any = None
    error: msgspec.Raw = ABSENT

    @property
    def is_blocked(self) -> bool:
        return self.prompt_feedback is not None and bool(self.prompt_feedback.block_reason)


_decoder = msgspec.json.Decoder(Response)


def read_response(data: bytes) -> Response:
    """Decode a response; raises OutcomeUnknown where it cannot be read."""
    try:
        return _decoder.decode(data)
    except UNREADABLE as error:
        raise OutcomeUnknown("the provider's answer cannot be read as one of generateContent") from error


def read_answer(body: bytes) -> ProviderAnswer:
    """Translate a whole answer; of alternative ones, the first.

    Raises:
        OutcomeUnknown: it holds no answer, or one that cannot be read.
    """
    response = read_response(body)
    usage = read_usage(response.usage_metadata, _searches(response))
    request_id = first_id(response.response_id)
    if not response.candidates:
        if response.is_blocked:
            return ProviderAnswer("", "content_filter", usage, request_id)
        raise OutcomeUnknown("the provider's answer has no candidates")
    candidate = response.candidates[0]
    sent = candidate.parts
    text = "".join([part.text for part in sent if isinstance(part.text, str) and not part.thought])
    calls = [part for part in sent if part.function_call is not None]
    is_text_alone = not calls and not any(part.thought for part in sent)
    return ProviderAnswer(
        text,
        finish_reason(candidate.finish_reason, calls=bool(calls)),
        usage,
        request_id,
        parts=() if is_text_alone else tuple(_parts(sent, request_id)),
    )


def _searches(response: Response) -> int:
    grounded = [each.grounding_metadata for each in response.candidates or () if each.grounding_metadata is not None]
    if not grounded:
        return 0  # Before a counter is made: most answers searched for nothing.
    searches = Searches()
    for each in grounded:
        searches.add(each)
    return searches.count(response.model_version)


def finish_reason(word: str | None, *, calls: bool) -> FinishReason:
    """Return why an answer ended; Google says STOP as well where it ends in calls."""
    reason = _FINISH.get(word, "other")
    return "tool_calls" if calls and reason == "stop" else reason


def _parts(parts: list[AnswerPart], request_id: str | None) -> list[Text | ToolCall | Thinking]:
    """Translate an answer's parts; what Google's own tools and pictures put between them is left out.

    So are signatures beside texts and thoughts: Google asks for them back, but refuses only calls without theirs, and
    another vendor would refuse thoughts that it has not signed.
    """
    found: list[Text | ToolCall | Thinking] = []
    calls = 0
    for part in parts:
        if part.function_call is not None:
            found.append(tool_call(part.function_call, part.signature, request_id, calls))
            calls += 1
        elif isinstance(part.text, str):
            if not part.thought:
                found.append(Text(part.text))
            elif part.text:
                found.append(Thinking(part.text))
    return found


def tool_call(call: FunctionCall, signature: str | None, request_id: str | None, number: int) -> ToolCall:
    """Translate a call.

    Args:
        call: as Google wrote it.
        signature: what stands beside it.
        request_id: Google's id of the answer.
        number: which of the answer's calls it is, from 0.

    Raises:
        OutcomeUnknown: its arguments are no JSON object.
    """
    try:
        arguments = msgspec.json.format(bytes(call.args) or b"{}", indent=-1).decode()
    except UNREADABLE as error:
        raise OutcomeUnknown("a tool call in the provider's answer cannot be read") from error
    if arguments == "null":
        arguments = "{}"
    if not arguments.startswith("{"):
        raise OutcomeUnknown("a tool call in the provider's answer has arguments that are no object")
    call_id = first_id(call.id) or _made_up_id(request_id, number)
    return ToolCall(id=call_id, name=call.name, arguments=arguments, signature=signature)


def _made_up_id(request_id: str | None, number: int) -> str:
    """Return an id for a call that Google gave none: within a conversation, no other call may have it."""
    if request_id is None:
        return f"call_{secrets.token_hex(12)}"
    return f"call_{hashlib.sha256(f'{request_id}/{number}'.encode()).hexdigest()[:24]}"

"""The chat completions format, which OpenAI made and many servers speak (https://platform.openai.com/docs/api-reference/chat).

Servers differ in what they leave out and in how they count, which is why little is taken for granted here.
"""

from typing import Any

import msgspec

from tollhouse.providers.base import FinishReason, Message, OutcomeUnknown, ProviderAnswer, Usage, WireResponse
from tollhouse.providers.parsing import ABSENT, UNREADABLE, Count, first_id, reports_use
from tollhouse.providers.refusals import overloaded, vendor_error

PATH = "/chat/completions"

_FINISH: dict[str | None, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "content_filter": "content_filter",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
}


class ChatBody(msgspec.Struct, omit_defaults=True):
    """A request; exactly one of the two limits is set."""

    model: str
    messages: tuple[Message, ...]
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    temperature: float | None = None
    stop: tuple[str, ...] = ()
    response_format: dict[str, Any] | None = None


class _InputDetails(msgspec.Struct):
    cached_tokens: Count | None = None
    cache_write_tokens: Count | None = None


class _OutputDetails(msgspec.Struct):
    reasoning_tokens: Count | None = None


class ReportedUsage(msgspec.Struct):
    """The ``usage`` of an answer."""

    prompt_tokens: Count
    completion_tokens: Count
    total_tokens: Count | None = None
    prompt_tokens_details: _InputDetails | None = None
    completion_tokens_details: _OutputDetails | None = None


class _Message(msgspec.Struct):
    # Some servers (Mistral's among them) answer in a list of typed parts.
    content: str | list[Any] | None = None
    refusal: Any = None


class _Choice(msgspec.Struct):
    message: _Message
    finish_reason: str | None = None


class Completion(msgspec.Struct):
    """An answer; ``usage`` is still to be decoded."""

    choices: list[_Choice] | None = None
    usage: msgspec.Raw = ABSENT
    error: Any = None
    id: Any = None


encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Completion)


def read_completion(response: WireResponse) -> Completion:
    """Decode a 200 that has at least one choice.

    Raises:
        Overloaded: it holds an error instead, as OpenRouter and others answer, and no usage.
        OutcomeUnknown: it is not a chat completion, or an error that may be billed.
    """
    try:
        completion = _decoder.decode(response.body)
    except UNREADABLE as error:
        raise OutcomeUnknown("the provider's answer cannot be read as a chat completion") from error
    if completion.choices:
        return completion
    # An error without usage is free, as the same words under a 5xx are: OpenRouter says so, with status 200, that the
    # provider behind it failed, and charges nothing for what ended in an error. Usage beside it says that work was done
    # all the same, which may be billed. An error that is empty, or neither an object nor a text, says neither.
    reported = vendor_error(response.body) if completion.error else None
    if reported is None:
        raise OutcomeUnknown("the provider's answer has no choices")
    if reports_use(completion.usage):
        raise OutcomeUnknown("the provider answered with an error, yet reported usage that it may bill")
    raise overloaded(response, reported)


def chat_answer(response: WireResponse, completion: Completion, usage: Usage | None) -> ProviderAnswer:
    """Return the first choice of what ``read_completion`` read, with its usage already in classes."""
    assert completion.choices, "read_completion() lets no completion without choices pass"
    choice = completion.choices[0]
    content, finish_reason = choice.message.content, _FINISH.get(choice.finish_reason, "other")
    if isinstance(content, list):
        content = "".join(_part_text(part) for part in content)
    refusal = choice.message.refusal
    if not content and isinstance(refusal, str) and refusal:
        content, finish_reason = refusal, "refusal"
    request_id = first_id(response.headers.get("x-request-id"), completion.id)
    return ProviderAnswer(content or "", finish_reason, usage, request_id)


def _part_text(part: Any) -> str:
    text = part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None
    return text if isinstance(text, str) else ""


def classify(reported: ReportedUsage) -> Usage:
    """Sort OpenAI's counts: input includes both cache classes, output includes reasoning.

    xAI's servers and Gemini's compatible ones leave reasoning out of ``completion_tokens``, as shows in a total above
    the sum, or in more reasoning than output; theirs is taken as additional.
    """
    details = reported.prompt_tokens_details or _InputDetails()
    cached, written = details.cached_tokens or 0, details.cache_write_tokens or 0
    output = reported.completion_tokens
    reasoning = (reported.completion_tokens_details or _OutputDetails()).reasoning_tokens or 0
    beyond = (reported.total_tokens or 0) - reported.prompt_tokens - output
    if beyond > 0 or reasoning > output:
        reasoning = max(reasoning, beyond)
    else:
        output -= reasoning
    return Usage(
        input_tokens=reported.prompt_tokens - cached - written,
        cached_input_tokens=cached,
        cache_write_tokens=written,
        output_tokens=output,
        reasoning_tokens=reasoning,
    )

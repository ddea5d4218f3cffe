"""Reading a whole chat completion."""

import re
from typing import Any

import msgspec

from tollhouse.providers.base import OutcomeUnknown, WireResponse
from tollhouse.providers.chat_completions.content import finish_reason, first_text, pieces, tool_calls
from tollhouse.providers.conversation import ProviderAnswer, Text, Thinking, ToolCall
from tollhouse.providers.parsing import ABSENT, UNREADABLE, first_id, reports_use
from tollhouse.providers.refusals import overloaded, vendor_error
from tollhouse.providers.usage import Usage

_SEARCH_MODEL = re.compile(r"-search(-|$)")


class _Message(msgspec.Struct):
    # Some servers (Mistral's among them) answer in a list of typed parts.
    content: str | list[Any] | None = None
    refusal: Any = None
    # DeepSeek's name, and those of vLLM and OpenRouter.
    reasoning_content: Any = None
    reasoning: Any = None
    tool_calls: Any = None
    annotations: Any = None


class _Choice(msgspec.Struct):
    message: _Message
    finish_reason: str | None = None


class Completion(msgspec.Struct):
    """An answer; ``usage`` is still to be decoded."""

    choices: list[_Choice] | None = None
    usage: msgspec.Raw = ABSENT
    error: Any = None
    id: Any = None
    model: Any = None


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
    message = choice.message
    request_id = first_id(response.headers.get("x-request-id"), completion.id)
    if type(message.content) is str and message.content and not _has_more(message):
        # Nearly every answer: text, and nothing besides it.
        finish = finish_reason(choice.finish_reason, has_calls=False)
        return ProviderAnswer(message.content, finish, usage, request_id)
    parts = _parts(message)
    calls = [part for part in parts if isinstance(part, ToolCall)]
    content = "".join(part.text for part in parts if isinstance(part, Text))
    finish = finish_reason(choice.finish_reason, has_calls=bool(calls))
    refusal = message.refusal
    if not content and isinstance(refusal, str) and refusal:
        content, finish = refusal, "refusal"
        parts.append(Text(refusal))
    is_text_alone = all(isinstance(part, Text) for part in parts)
    return ProviderAnswer(
        content=content,
        finish_reason=finish,
        usage=usage,
        provider_request_id=request_id,
        parts=() if is_text_alone else tuple(parts),
    )


def searched(model: Any, annotations: Any) -> bool:
    """Tell whether OpenAI's search tool was used, which no usage of a chat completion says.

    The models made for it search on every call, and are billed for it; with others, the sources that are cited tell.
    """
    if isinstance(model, str) and is_search_model(model):
        return True
    cited = annotations if isinstance(annotations, list) else ()
    return any(isinstance(each, dict) and each.get("type") == "url_citation" for each in cited)


def is_search_model(model: str) -> bool:
    """Tell whether a model of OpenAI's is one that searches on every call."""
    return _SEARCH_MODEL.search(model) is not None


def completion_searched(completion: Completion) -> bool:
    """Tell whether the search tool was used for any choice of a completion."""
    return any(searched(completion.model, choice.message.annotations) for choice in completion.choices or ())


def _has_more(message: _Message) -> bool:
    return bool(message.tool_calls or message.reasoning_content or message.reasoning)


def _parts(message: _Message) -> list[Text | Thinking | ToolCall]:
    parts: list[Text | Thinking | ToolCall] = []
    if thought := first_text(message.reasoning_content, message.reasoning):
        parts.append(Thinking(thought))
    for kind, text in pieces(message.content):
        if text:
            parts.append(Text(text) if kind == "text" else Thinking(text))
    parts.extend(tool_calls(message.tool_calls))
    return parts

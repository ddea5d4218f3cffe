"""Google's Gemini API, generateContent (https://ai.google.dev/api/generate-content)."""

from typing import Any
from urllib.parse import quote

import msgspec

from tollhouse.errors import InvalidRequest
from tollhouse.providers.base import (
    FinishReason,
    OutcomeUnknown,
    ProviderAnswer,
    ProviderRequest,
    Usage,
    WireRequest,
    WireResponse,
)
from tollhouse.providers.parsing import ABSENT, UNREADABLE, Count, first_id, usage_or_none
from tollhouse.providers.refusals import VendorError, failure

_FINISH: dict[str | None, FinishReason] = {
    "STOP": "stop",
    "MAX_TOKENS": "length",
    "SAFETY": "content_filter",
    "RECITATION": "content_filter",
    "BLOCKLIST": "content_filter",
    "PROHIBITED_CONTENT": "content_filter",
    "SPII": "content_filter",
}
# An invalid key and an unserved country come as 400.
_OPERATORS_CODES = frozenset({"API_KEY_INVALID", "FAILED_PRECONDITION"})


class _Part(msgspec.Struct):
    # Typed loosely: parts of many kinds share this place.
    text: Any = None
    thought: Any = None


class _TextPart(msgspec.Struct):
    text: str


class _Turn(msgspec.Struct, omit_defaults=True):
    parts: tuple[_TextPart, ...]
    role: str = ""


class _GenerationConfig(msgspec.Struct, omit_defaults=True, rename="camel"):
    max_output_tokens: int
    temperature: float | None = None
    stop_sequences: tuple[str, ...] = ()
    response_mime_type: str | None = None
    response_json_schema: dict[str, Any] | None = None


class _Body(msgspec.Struct, omit_defaults=True, rename="camel"):
    contents: list[_Turn]
    generation_config: _GenerationConfig
    system_instruction: _Turn | None = None


class _Content(msgspec.Struct):
    parts: list[_Part] | None = None


class _Candidate(msgspec.Struct, rename="camel"):
    content: _Content | None = None
    finish_reason: str | None = None


class _Feedback(msgspec.Struct, rename="camel"):
    block_reason: Any = None


class _Usage(msgspec.Struct, rename="camel"):
    # Counts of zero are left out, as everywhere in Google's JSON; but no prompt is empty.
    prompt_token_count: Count
    cached_content_token_count: Count = 0
    tool_use_prompt_token_count: Count = 0
    candidates_token_count: Count = 0
    thoughts_token_count: Count = 0
    total_token_count: Count = 0


class _Answer(msgspec.Struct, rename="camel"):
    candidates: list[_Candidate] | None = None
    prompt_feedback: _Feedback | None = None
    usage_metadata: msgspec.Raw = ABSENT
    response_id: Any = None


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(_Answer)
_usage_decoder = msgspec.json.Decoder(_Usage)


class GeminiAdapter:
    """Speaks to ``base_url`` as Google's own SDK has it: ``https://generativelanguage.googleapis.com``."""

    def __init__(self, *, base_url: str, api_key: str) -> None:
        self.base_url = base_url
        self._api_key = api_key
        self._headers = (("x-goog-api-key", api_key),) if api_key else ()

    def encode(self, request: ProviderRequest) -> WireRequest:
        turns, system = [], []
        for message in request.messages:
            part = _TextPart(message.content)
            if message.role == "system":
                system.append(part)
            else:
                turns.append(_Turn((part,), role="model" if message.role == "assistant" else "user"))
        if not turns:
            raise InvalidRequest("messages: expected at least one turn of the user, found system turns only")
        schema = request.response_schema
        body = _Body(
            contents=turns,
            system_instruction=_Turn(tuple(system)) if system else None,
            generation_config=_GenerationConfig(
                # Thinking counts towards this limit, and so do the answer's tokens.
                max_output_tokens=request.max_tokens,
                temperature=request.temperature,
                stop_sequences=request.stop,
                response_mime_type=None if schema is None else "application/json",
                response_json_schema=schema,
            ),
        )
        return WireRequest(path=_path(request.model), headers=self._headers, body=_encoder.encode(body))

    def decode(self, response: WireResponse) -> ProviderAnswer:
        if response.status != 200:
            raise failure(response, secret=self._api_key, is_operators=_is_operators)
        try:
            answer = _decoder.decode(response.body)
        except UNREADABLE as error:
            raise OutcomeUnknown("the provider's answer cannot be read as one of generateContent") from error
        content, finish_reason = _first_candidate(answer)
        usage = usage_or_none(answer.usage_metadata, _usage_decoder, _classify)
        return ProviderAnswer(content, finish_reason, usage, first_id(answer.response_id))


def _path(model: str) -> str:
    # As in Google's SDK, a bare name is one of models/, while tunedModels/… says where it is itself.
    resource = model if "/" in model else f"models/{model}"
    return f"/v1beta/{quote(resource, safe='/-._~')}:generateContent"


def _first_candidate(answer: _Answer) -> tuple[str, FinishReason]:
    if not answer.candidates:
        if answer.prompt_feedback is not None and answer.prompt_feedback.block_reason:
            return "", "content_filter"
        raise OutcomeUnknown("the provider's answer has no candidates")
    candidate = answer.candidates[0]
    parts = (candidate.content and candidate.content.parts) or []
    text = "".join(part.text for part in parts if isinstance(part.text, str) and not part.thought)
    return text, _FINISH.get(candidate.finish_reason, "other")


def _classify(reported: _Usage) -> Usage:
    """Sort Google's counts: the prompt includes what was cached, output excludes thoughts, tool results are input.

    What a total counts beyond the sum of its parts was made by the model: some previews have not itemised thoughts.
    """
    prompt = reported.prompt_token_count + reported.tool_use_prompt_token_count
    output = reported.candidates_token_count + reported.thoughts_token_count
    beyond = max(reported.total_token_count - prompt - output, 0)
    return Usage(
        input_tokens=prompt - reported.cached_content_token_count,
        cached_input_tokens=reported.cached_content_token_count,
        output_tokens=reported.candidates_token_count,
        reasoning_tokens=reported.thoughts_token_count + beyond,
    )


def _is_operators(error: VendorError) -> bool:
    return not _OPERATORS_CODES.isdisjoint(error.codes)

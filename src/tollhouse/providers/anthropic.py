"""Anthropic's Messages API (https://docs.claude.com/en/api/messages)."""

from typing import Any

import msgspec

from tollhouse.errors import InvalidRequest
from tollhouse.providers.base import (
    FinishReason,
    Message,
    OutcomeUnknown,
    ProviderAnswer,
    ProviderRequest,
    Usage,
    WireRequest,
    WireResponse,
)
from tollhouse.providers.parsing import ABSENT, UNREADABLE, Count, first_id, usage_or_none
from tollhouse.providers.refusals import VendorError, failure

_PATH = "/v1/messages"
_VERSION = "2023-06-01"

_FINISH: dict[str | None, FinishReason] = {
    "end_turn": "stop",
    "stop_sequence": "stop",
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "refusal",
}


class _Format(msgspec.Struct, tag_field="type", tag="json_schema"):
    schema: dict[str, Any]


class _OutputConfig(msgspec.Struct):
    format: _Format


class _Body(msgspec.Struct, omit_defaults=True):
    model: str
    max_tokens: int
    messages: list[Message]
    system: str = ""
    temperature: float | None = None
    stop_sequences: tuple[str, ...] = ()
    output_config: _OutputConfig | None = None


class _CacheCreation(msgspec.Struct):
    ephemeral_1h_input_tokens: Count | None = None
    ephemeral_5m_input_tokens: Count | None = None


class _OutputDetails(msgspec.Struct):
    thinking_tokens: Count | None = None


class _Usage(msgspec.Struct):
    input_tokens: Count
    output_tokens: Count
    cache_read_input_tokens: Count | None = None
    cache_creation_input_tokens: Count | None = None
    cache_creation: _CacheCreation | None = None
    output_tokens_details: _OutputDetails | None = None


class _Block(msgspec.Struct):
    type: str
    # Blocks of types yet to come may use the name for something else.
    text: Any = None


class _Answer(msgspec.Struct):
    content: list[_Block]
    stop_reason: str | None = None
    usage: msgspec.Raw = ABSENT
    id: Any = None


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(_Answer)
_usage_decoder = msgspec.json.Decoder(_Usage)


class AnthropicAdapter:
    """Speaks to ``base_url`` as Anthropic's own SDK has it: ``https://api.anthropic.com``."""

    def __init__(self, *, base_url: str, api_key: str) -> None:
        self.base_url = base_url
        self._api_key = api_key
        key_header = (("x-api-key", api_key),) if api_key else ()
        self._headers = (*key_header, ("anthropic-version", _VERSION))

    def encode(self, request: ProviderRequest) -> WireRequest:
        # System turns have no place in the conversation; turns of one role in a row are merged by the API itself.
        turns = [message for message in request.messages if message.role != "system"]
        if not turns:
            raise InvalidRequest("messages: expected at least one turn of the user, found system turns only")
        schema = request.response_schema
        body = _Body(
            model=request.model,
            max_tokens=request.max_tokens,
            messages=turns,
            system="\n\n".join(m.content for m in request.messages if m.role == "system"),
            temperature=request.temperature,
            stop_sequences=request.stop,
            output_config=None if schema is None else _OutputConfig(_Format(schema)),
        )
        return WireRequest(path=_PATH, headers=self._headers, body=_encoder.encode(body))

    def decode(self, response: WireResponse) -> ProviderAnswer:
        if response.status != 200:
            raise failure(response, secret=self._api_key, is_operators=_is_operators)
        try:
            answer = _decoder.decode(response.body)
        except UNREADABLE as error:
            raise OutcomeUnknown("the provider's answer cannot be read as one of the Messages API") from error
        return ProviderAnswer(
            content="".join(b.text for b in answer.content if b.type == "text" and isinstance(b.text, str)),
            finish_reason=_FINISH.get(answer.stop_reason, "other"),
            usage=usage_or_none(answer.usage, _usage_decoder, _classify),
            provider_request_id=first_id(response.headers.get("request-id"), answer.id),
        )


def _classify(reported: _Usage) -> Usage:
    """Sort Anthropic's counts: input excludes both cache classes, output includes thinking.

    Entries of ``usage.iterations`` are left out: they repeat these sums, or belong to server tools that are never
    asked for.
    """
    split = reported.cache_creation or _CacheCreation()
    write_1h = split.ephemeral_1h_input_tokens or 0
    written = reported.cache_creation_input_tokens
    if written is None:
        written = write_1h + (split.ephemeral_5m_input_tokens or 0)
    details = reported.output_tokens_details
    thinking = (details.thinking_tokens or 0) if details else 0
    return Usage(
        input_tokens=reported.input_tokens,
        cached_input_tokens=reported.cache_read_input_tokens or 0,
        cache_write_tokens=written - write_1h,
        cache_write_1h_tokens=write_1h,
        output_tokens=reported.output_tokens - thinking,
        reasoning_tokens=thinking,
    )


def _is_operators(error: VendorError) -> bool:
    # An empty account and a spend limit come as 400 invalid_request_error, told apart only by their text.
    return "credit balance is too low" in error.message or "API usage limits" in error.message

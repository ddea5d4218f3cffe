"""DeepSeek's chat completions (https://api-docs.deepseek.com): OpenAI's format, with its own count of cache hits."""

from collections.abc import Iterator
from itertools import groupby

import msgspec

from tollhouse.errors import InvalidRequest
from tollhouse.providers.base import Message, ProviderAnswer, ProviderRequest, Usage, WireRequest, WireResponse
from tollhouse.providers.chat_completions import (
    PATH,
    ChatBody,
    ReportedUsage,
    chat_answer,
    classify,
    encoder,
    read_completion,
)
from tollhouse.providers.parsing import Count, usage_or_none
from tollhouse.providers.refusals import VendorError, failure


class _Usage(ReportedUsage):
    prompt_cache_hit_tokens: Count | None = None
    prompt_cache_miss_tokens: Count | None = None


_usage_decoder = msgspec.json.Decoder(_Usage)


class DeepSeekAdapter:
    """Speaks to ``base_url`` as DeepSeek's documentation has it: ``https://api.deepseek.com``."""

    def __init__(self, *, base_url: str, api_key: str) -> None:
        self.base_url = base_url
        self._api_key = api_key
        self._headers = (("authorization", f"Bearer {api_key}"),) if api_key else ()

    def encode(self, request: ProviderRequest) -> WireRequest:
        if request.response_schema is not None:
            raise InvalidRequest(
                "response_schema: DeepSeek's API enforces no JSON Schema; "
                "describe the format in the prompt, or choose a model of another provider"
            )
        body = ChatBody(
            model=request.model,
            messages=tuple(_alternating(request.messages)),
            max_tokens=request.max_tokens,
            temperature=request.temperature,
            stop=request.stop,
        )
        return WireRequest(path=PATH, headers=self._headers, body=encoder.encode(body))

    def decode(self, response: WireResponse) -> ProviderAnswer:
        if response.status != 200:
            raise failure(response, secret=self._api_key, is_operators=_is_operators)
        completion = read_completion(response)
        usage = usage_or_none(completion.usage, _usage_decoder, _classify)
        return chat_answer(response, completion, usage)


def _alternating(messages: tuple[Message, ...]) -> Iterator[Message]:
    """Merge turns of one role in a row: DeepSeek's reasoning models have refused them."""
    for role, turns in groupby(messages, key=lambda message: message.role):
        yield Message(role, "\n\n".join(turn.content for turn in turns))


def _classify(reported: _Usage) -> Usage:
    """Sort DeepSeek's counts: hits and misses make up ``prompt_tokens``; the rest is OpenAI's."""
    usage = classify(reported)
    hits = reported.prompt_cache_hit_tokens
    if hits is None:
        return usage
    misses = reported.prompt_cache_miss_tokens
    if misses is None:
        misses = reported.prompt_tokens - hits
    return msgspec.structs.replace(usage, input_tokens=misses, cached_input_tokens=hits)


def _is_operators(error: VendorError) -> bool:
    # An unknown model is a 400 here, told apart only by its text.
    return error.message.startswith("Model Not Exist")

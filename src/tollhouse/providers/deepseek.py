"""DeepSeek's chat completions (https://api-docs.deepseek.com): OpenAI's format, with its own count of cache hits."""

from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any
from urllib.parse import urlsplit

import msgspec

from tollhouse.errors import InvalidRequest
from tollhouse.providers.base import ApiName, Dialect, WireRequest, WireResponse
from tollhouse.providers.chat_completions.answer import chat_answer, read_completion
from tollhouse.providers.chat_completions.foreign import without_foreign
from tollhouse.providers.chat_completions.relay import relayed, with_max_tokens
from tollhouse.providers.chat_completions.request import (
    PATH,
    ChatBody,
    chat_body,
    chat_messages,
    effort,
    encoder,
    is_plain,
)
from tollhouse.providers.chat_completions.stream import ChatStreamReader
from tollhouse.providers.chat_completions.usage import ReportedUsage, classify
from tollhouse.providers.conversation import Message, ProviderAnswer, ProviderRequest, Reasoning
from tollhouse.providers.parsing import Count, usage_or_none
from tollhouse.providers.refusals import VendorError, failure
from tollhouse.providers.responses.dialect import ResponsesDialect
from tollhouse.providers.usage import Usage


class _Usage(ReportedUsage):
    prompt_cache_hit_tokens: Count | None = None
    prompt_cache_miss_tokens: Count | None = None


_usage_decoder = msgspec.json.Decoder(_Usage)

_DEEPSEEK = "api.deepseek.com"


class DeepSeekAdapter:
    """Speaks to ``base_url`` as DeepSeek's documentation has it: ``https://api.deepseek.com``."""

    capabilities = ("streaming", "tools", "json", "reasoning")

    def __init__(self, *, base_url: str, api_key: str, has_responses: bool | None = None) -> None:
        self.base_url = base_url
        self._api_key = api_key
        self._headers: tuple[tuple[str, str], ...] = (("authorization", f"Bearer {api_key}"),) if api_key else ()
        self._dialects: dict[ApiName, Dialect] = {"chat": self}
        if has_responses or (has_responses is None and urlsplit(base_url).hostname == _DEEPSEEK):
            self._dialects["responses"] = ResponsesDialect(self._headers, api_key)

    def dialect(self, api: ApiName) -> Dialect | None:
        return self._dialects.get(api)

    def encode(self, request: ProviderRequest) -> WireRequest:
        _refuse_what_is_not_known(request)
        if is_plain(request.messages):
            body = chat_body(request, tuple(_alternating(request.messages)))
        else:
            written = chat_messages(request.messages, takes_media=False, returns_thinking=True)
            body = chat_body(request, list(_merged(written)))
        body.max_tokens = request.max_tokens
        # Several calls in one turn are always allowed here.
        body.parallel_tool_calls = None
        if request.reasoning is not None:
            _set_thinking(body, request.reasoning)
        return WireRequest(path=PATH, headers=self._headers, body=encoder.encode(body))

    def relay(self, body: Mapping[str, Any], *, model: str, stream: bool, headers: Mapping[str, str]) -> WireRequest:  # noqa: ARG002
        own = without_foreign(with_max_tokens(body), keeps_thinking=True)
        return relayed(PATH, own, model=model, headers=headers, own=self._headers)

    def decode(self, response: WireResponse) -> ProviderAnswer:
        if response.status != 200:
            raise failure(response, secret=self._api_key, is_operators=_is_operators)
        completion = read_completion(response)
        return chat_answer(response, completion, _read_usage(completion.usage))

    def stream_reader(self) -> ChatStreamReader:
        return ChatStreamReader(_read_usage, secret=self._api_key, is_operators=_is_operators)


def _refuse_what_is_not_known(request: ProviderRequest) -> None:
    if request.response_schema is not None:
        raise InvalidRequest(
            "response_schema: DeepSeek's API enforces no JSON Schema; "
            "describe the format in the prompt, or choose a model of another provider"
        )
    if request.top_k is not None:
        raise InvalidRequest("top_k: DeepSeek's API has no such parameter; use top_p, or leave it out")
    if request.seed is not None:
        raise InvalidRequest("seed: DeepSeek's API has no such parameter; leave it out")
    if request.tools and request.allows_parallel_calls is False:
        raise InvalidRequest("allows_parallel_calls: DeepSeek's API cannot hold a model to one call; leave it out")


def _set_thinking(body: ChatBody, reasoning: Reasoning) -> None:
    """Set how much is thought: DeepSeek switches it off and grades it in two places, and sorts efforts itself."""
    asked = effort(reasoning)
    body.thinking = {"type": "disabled" if asked == "none" else "enabled"}
    if asked != "none":
        body.reasoning_effort = asked


def _alternating(messages: tuple[Message, ...]) -> Iterator[Message]:
    """Merge turns of one role in a row: DeepSeek's reasoning models have refused them."""
    for role, turns in groupby(messages, key=lambda message: message.role):
        yield Message(role, "\n\n".join(turn.content for turn in turns if isinstance(turn.content, str)))


def _merged(messages: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Merge written turns of one role in a row, but for those that call tools and what these brought."""
    for keys, turns in groupby(messages, key=lambda message: (message["role"], message.keys() == {"role", "content"})):
        role, is_text = keys
        if is_text:
            yield {"role": role, "content": "\n\n".join(turn["content"] for turn in turns)}
        else:
            yield from turns


def _read_usage(raw: msgspec.Raw) -> Usage | None:
    return usage_or_none(raw, _usage_decoder, _classify)


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

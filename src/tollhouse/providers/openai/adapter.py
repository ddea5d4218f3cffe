"""OpenAI, Azure OpenAI, and every OpenAI-compatible server: Ollama, vLLM, llama.cpp, LM Studio and others."""

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

import msgspec

from tollhouse.errors import InvalidRequest
from tollhouse.providers.base import ApiName, Dialect, WireRequest, WireResponse
from tollhouse.providers.chat_completions.answer import (
    chat_answer,
    completion_searched,
    is_search_model,
    read_completion,
)
from tollhouse.providers.chat_completions.foreign import without_foreign
from tollhouse.providers.chat_completions.relay import relayed, with_max_tokens
from tollhouse.providers.chat_completions.request import PATH, chat_body, chat_messages, effort, encoder, is_plain
from tollhouse.providers.chat_completions.stream import ChatStreamReader
from tollhouse.providers.chat_completions.usage import read_usage
from tollhouse.providers.conversation import Message, ProviderAnswer, ProviderRequest
from tollhouse.providers.openai.embeddings import EmbeddingsDialect
from tollhouse.providers.openai.refusals import is_operators
from tollhouse.providers.refusals import failure
from tollhouse.providers.responses.dialect import ResponsesDialect
from tollhouse.providers.strict_schema import is_strict

_AZURE = (".openai.azure.com", ".cognitiveservices.azure.com")
_OPENAI = "api.openai.com"
# Serves Gemini in this format as well, and wants back the signatures of its calls.
_GOOGLE = ".googleapis.com"
_REASONING_MODEL = re.compile(r"(.*/)?(o[1-9]|gpt-[5-9])(?![0-9a-z])")
_NO_REASONING = re.compile(r"(ft:)?(gpt-3|gpt-4|chatgpt-)")


class OpenAIAdapter:
    """Speaks to ``base_url`` as OpenAI's own SDK has it: ``https://api.openai.com/v1``; a local server needs no key."""

    capabilities = ("streaming", "tools", "images", "documents", "audio", "json_schema", "json", "reasoning")

    def __init__(self, *, base_url: str, api_key: str, has_responses: bool | None = None) -> None:
        """Take it that other servers than OpenAI's and Azure's have no Responses API, unless told otherwise."""
        self.base_url = base_url
        self._api_key = api_key
        self._host = (urlsplit(base_url).hostname or "").rstrip(".")
        self._headers: tuple[tuple[str, str], ...] = ()
        if api_key and self._host.endswith(_AZURE):
            self._headers = (("api-key", api_key),)
        elif api_key:
            self._headers = (("authorization", f"Bearer {api_key}"),)
        self._dialects: dict[ApiName, Dialect] = {
            "chat": self,
            "embeddings": EmbeddingsDialect(self._headers, api_key),
        }
        if has_responses or (has_responses is None and _is_openais(self._host)):
            self._dialects["responses"] = ResponsesDialect(self._headers, api_key)

    def dialect(self, api: ApiName) -> Dialect | None:
        return self._dialects.get(api)

    def own_searches(self, model: str) -> int:
        """Return how often a model searches in every call."""
        return int(_is_openais(self._host) and is_search_model(model))

    def encode(self, request: ProviderRequest) -> WireRequest:
        messages: Sequence[Message | dict[str, Any]] = request.messages
        if not is_plain(request.messages):
            messages = chat_messages(request.messages, returns_signatures=self._host.endswith(_GOOGLE))
        body = chat_body(request, messages)
        if request.response_schema is not None:
            body.response_format = _response_format(request.response_schema, request.schema_name)
        if request.reasoning is not None:
            body.reasoning_effort = _effort(self._host, request)
        if request.top_k is not None:
            if _is_openais(self._host):
                raise InvalidRequest("top_k: OpenAI's API has no such parameter; use top_p, or leave it out")
            body.top_k = request.top_k
        if _wants_max_completion_tokens(self._host, request.model):
            body.max_completion_tokens = request.max_tokens
        else:
            body.max_tokens = request.max_tokens
        return WireRequest(path=PATH, headers=self._headers, body=encoder.encode(body))

    def relay(self, body: Mapping[str, Any], *, model: str, stream: bool, headers: Mapping[str, str]) -> WireRequest:  # noqa: ARG002
        if not _wants_max_completion_tokens(self._host, model):
            body = with_max_tokens(body)
        if _is_openais(self._host):
            # Compatible servers may have made these fields themselves; OpenAI never does, and refuses what it does not
            # know.
            body = without_foreign(body)
        return relayed(PATH, body, model=model, headers=headers, own=self._headers)

    def decode(self, response: WireResponse) -> ProviderAnswer:
        if response.status != 200:
            raise failure(response, secret=self._api_key, is_operators=is_operators)
        completion = read_completion(response)
        usage = read_usage(completion.usage)
        if usage is not None and _is_openais(self._host) and completion_searched(completion):
            usage = msgspec.structs.replace(usage, web_searches=1)
        return chat_answer(response, completion, usage)

    def stream_reader(self) -> ChatStreamReader:
        is_openais = _is_openais(self._host)
        return ChatStreamReader(
            read_usage,
            secret=self._api_key,
            is_operators=is_operators,
            counts_searches=is_openais,
            hides_thinking=_thinks if is_openais else None,
        )


@lru_cache(maxsize=1024)
def _wants_max_completion_tokens(host: str, model: str) -> bool:
    """Tell which of its two names the output limit must have, so that the provider is bound by it.

    OpenAI's reasoning models refuse ``max_tokens``, and OpenAI deprecates it for all. Compatible servers often know
    nothing else, and would ignore the newer name: the answer would then have no limit, and its cost no ceiling. So
    the newer name goes to OpenAI and Azure (where a deployment's name does not tell its model), and elsewhere only
    with a model that must be OpenAI's own behind some gateway. OpenAI refuses requests with both.
    """
    return _is_openais(host) or _REASONING_MODEL.match(model) is not None


def _thinks(model: str) -> bool:
    return _REASONING_MODEL.match(model) is not None


def _is_openais(host: str) -> bool:
    """Tell OpenAI itself, at Azure too, from servers that speak its format."""
    return host == _OPENAI or host.endswith((f".{_OPENAI}", *_AZURE))


def _effort(host: str, request: ProviderRequest) -> str | None:
    """Return how much a model is to think; None where it never does and is not asked to."""
    assert request.reasoning is not None
    asked = effort(request.reasoning)
    if _is_openais(host) and not host.endswith(_AZURE) and _NO_REASONING.match(request.model):
        if asked != "none":
            raise InvalidRequest(f"reasoning: {request.model} does not reason; leave it out, or choose another model")
        return None
    return asked


def _response_format(schema: dict[str, Any], name: str | None) -> dict[str, Any]:
    # A schema outside the strict subset is refused if it is called strict, and followed less firmly if it is not.
    described: dict[str, Any] = {"name": name or "response", "schema": schema}
    if is_strict(schema):
        described["strict"] = True
    return {"type": "json_schema", "json_schema": described}

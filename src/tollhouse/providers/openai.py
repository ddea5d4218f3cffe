"""OpenAI, Azure OpenAI, and every OpenAI-compatible server: Ollama, vLLM, llama.cpp, LM Studio and others."""

import re
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

import msgspec

from tollhouse.providers.base import ProviderAnswer, ProviderRequest, WireRequest, WireResponse
from tollhouse.providers.chat_completions import (
    PATH,
    ChatBody,
    ReportedUsage,
    chat_answer,
    classify,
    encoder,
    read_completion,
)
from tollhouse.providers.parsing import usage_or_none
from tollhouse.providers.refusals import VendorError, failure
from tollhouse.providers.strict_schema import is_strict

_AZURE = (".openai.azure.com", ".cognitiveservices.azure.com")
_OPENAI = "api.openai.com"
_REASONING_MODEL = re.compile(r"(.*/)?(o[1-9]|gpt-[5-9])(?![0-9a-z])")

_usage_decoder = msgspec.json.Decoder(ReportedUsage)


class OpenAIAdapter:
    """Speaks to ``base_url`` as OpenAI's own SDK has it: ``https://api.openai.com/v1``; a local server needs no key."""

    def __init__(self, *, base_url: str, api_key: str) -> None:
        self.base_url = base_url
        self._api_key = api_key
        self._host = (urlsplit(base_url).hostname or "").rstrip(".")
        self._headers: tuple[tuple[str, str], ...] = ()
        if api_key and self._host.endswith(_AZURE):
            self._headers = (("api-key", api_key),)
        elif api_key:
            self._headers = (("authorization", f"Bearer {api_key}"),)

    def encode(self, request: ProviderRequest) -> WireRequest:
        body = ChatBody(
            model=request.model,
            messages=request.messages,
            temperature=request.temperature,
            stop=request.stop,
            response_format=None if request.response_schema is None else _response_format(request.response_schema),
        )
        if _wants_max_completion_tokens(self._host, request.model):
            body.max_completion_tokens = request.max_tokens
        else:
            body.max_tokens = request.max_tokens
        return WireRequest(path=PATH, headers=self._headers, body=encoder.encode(body))

    def decode(self, response: WireResponse) -> ProviderAnswer:
        if response.status != 200:
            raise failure(response, secret=self._api_key, is_operators=_is_operators)
        completion = read_completion(response)
        usage = usage_or_none(completion.usage, _usage_decoder, classify)
        return chat_answer(response, completion, usage)


@lru_cache(maxsize=1024)
def _wants_max_completion_tokens(host: str, model: str) -> bool:
    """Tell which of its two names the output limit must have, so that the provider is bound by it.

    OpenAI's reasoning models refuse ``max_tokens``, and OpenAI deprecates it for all. Compatible servers often know
    nothing else, and would ignore the newer name: the answer would then have no limit, and its cost no ceiling. So
    the newer name goes to OpenAI and Azure (where a deployment's name does not tell its model), and elsewhere only
    with a model that must be OpenAI's own behind some gateway. OpenAI refuses requests with both.
    """
    if host == _OPENAI or host.endswith((f".{_OPENAI}", *_AZURE)):
        return True
    return _REASONING_MODEL.match(model) is not None


def _response_format(schema: dict[str, Any]) -> dict[str, Any]:
    # A schema outside the strict subset is refused if it is called strict, and followed less firmly if it is not.
    described: dict[str, Any] = {"name": "response", "schema": schema}
    if is_strict(schema):
        described["strict"] = True
    return {"type": "json_schema", "json_schema": described}


def _is_operators(error: VendorError) -> bool:
    return "model_not_found" in error.codes

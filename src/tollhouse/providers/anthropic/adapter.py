"""The adapter for providers that speak Anthropic's Messages API."""

from collections.abc import Mapping
from typing import Any

from tollhouse.errors import InvalidRequest
from tollhouse.providers.anthropic.answer import decode_answer, is_operators
from tollhouse.providers.anthropic.foreign import without_foreign
from tollhouse.providers.anthropic.request import encode_body, encode_request
from tollhouse.providers.anthropic.stream import MessagesReader
from tollhouse.providers.base import ApiName, Dialect, StreamReader, WireRequest, WireResponse
from tollhouse.providers.conversation import ProviderAnswer, ProviderRequest
from tollhouse.providers.refusals import failure

_PATH = "/v1/messages"
_COUNT_PATH = "/v1/messages/count_tokens"
_VERSION_HEADER = "anthropic-version"
_BETA_HEADER = "anthropic-beta"
_VERSION = "2023-06-01"


class AnthropicAdapter:
    """Speaks to ``base_url`` as Anthropic's own SDK has it: ``https://api.anthropic.com``."""

    capabilities = ("streaming", "tools", "images", "documents", "json_schema", "reasoning")

    def __init__(self, *, base_url: str, api_key: str) -> None:
        self.base_url = base_url
        self._api_key = api_key
        self._key_header = (("x-api-key", api_key),) if api_key else ()
        self._headers = (*self._key_header, (_VERSION_HEADER, _VERSION))

    def encode(self, request: ProviderRequest) -> WireRequest:
        return WireRequest(path=_PATH, headers=self._headers, body=encode_request(request))

    def decode(self, response: WireResponse) -> ProviderAnswer:
        if response.status != 200:
            raise failure(response, secret=self._api_key, is_operators=is_operators)
        return decode_answer(response)

    def stream_reader(self) -> StreamReader:
        return MessagesReader(secret=self._api_key)

    def dialect(self, api: ApiName) -> Dialect | None:
        return self if api == "messages" else None

    def relay(self, body: Mapping[str, Any], *, model: str, stream: bool, headers: Mapping[str, str]) -> WireRequest:
        relayed = without_foreign(body)
        relayed["model"] = model
        if stream or "stream" in relayed:
            relayed["stream"] = stream
        return WireRequest(path=_PATH, headers=self._relayed_headers(headers), body=encode_body(relayed))

    def count_tokens(self, body: Mapping[str, Any], model: str, headers: Mapping[str, str]) -> WireRequest:
        """Return a client's request to count a prompt's tokens, which is free, as it came but for the model's name."""
        counted = without_foreign(body)
        counted["model"] = model
        return WireRequest(path=_COUNT_PATH, headers=self._relayed_headers(headers), body=encode_body(counted))

    def _relayed_headers(self, headers: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
        """Return the operator's key, and the version and the betas that the client asks for."""
        asked = [(_VERSION_HEADER, headers.get(_VERSION_HEADER) or _VERSION)]
        if beta := headers.get(_BETA_HEADER):
            asked.append((_BETA_HEADER, beta))
        for name, value in asked:
            if not (value.isascii() and value.isprintable()):
                raise InvalidRequest(f"{name}: expected printable ASCII")
        return (*self._key_header, *asked)

"""Google's Gemini API, generateContent (https://ai.google.dev/api/generate-content)."""

from collections.abc import Mapping
from typing import Any

import msgspec

from tollhouse.providers.base import ApiName, Dialect, StreamReader, WireRequest, WireResponse
from tollhouse.providers.conversation import ProviderAnswer, ProviderRequest
from tollhouse.providers.gemini.answer import read_answer
from tollhouse.providers.gemini.embeddings import GeminiEmbeddings
from tollhouse.providers.gemini.foreign import without_foreign
from tollhouse.providers.gemini.paths import generate_path, passed_on
from tollhouse.providers.gemini.refusals import refused
from tollhouse.providers.gemini.request import encode_body
from tollhouse.providers.gemini.stream import GeminiStreamReader

_encoder = msgspec.json.Encoder()


class GeminiAdapter:
    """Speaks to ``base_url`` as Google's own SDK has it: ``https://generativelanguage.googleapis.com``."""

    capabilities = ("streaming", "tools", "images", "documents", "audio", "json_schema", "json", "reasoning")

    def __init__(self, *, base_url: str, api_key: str) -> None:
        self.base_url = base_url
        self._api_key = api_key
        self._headers = (("x-goog-api-key", api_key),) if api_key else ()
        self._embeddings = GeminiEmbeddings(api_key=api_key, headers=self._headers)

    def encode(self, request: ProviderRequest) -> WireRequest:
        path = generate_path(request.model, stream=request.stream)
        return WireRequest(path=path, headers=self._headers, body=encode_body(request))

    def dialect(self, api: ApiName) -> Dialect | None:
        if api == "gemini":
            return self
        return self._embeddings if api == "gemini-embeddings" else None

    def relay(self, body: Mapping[str, Any], *, model: str, stream: bool, headers: Mapping[str, str]) -> WireRequest:
        # The model's name stands in the path; a body that repeats it would contradict it.
        relayed = without_foreign(body, model)
        relayed.pop("model", None)
        path = generate_path(model, stream=stream)
        return WireRequest(path, (*self._headers, *passed_on(headers)), _encoder.encode(relayed))

    def decode(self, response: WireResponse) -> ProviderAnswer:
        if response.status != 200:
            raise refused(response, self._api_key)
        return read_answer(response.body)

    def stream_reader(self) -> StreamReader:
        return GeminiStreamReader(self._api_key)

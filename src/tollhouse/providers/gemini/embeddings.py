"""Google's embedContent and batchEmbedContents (https://ai.google.dev/api/embeddings)."""

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from tollhouse.providers.base import OutcomeUnknown, WireRequest, WireResponse
from tollhouse.providers.conversation import ProviderAnswer, StreamEvent
from tollhouse.providers.gemini.paths import model_path, passed_on, resource_name
from tollhouse.providers.gemini.refusals import refused
from tollhouse.providers.gemini.usage import read_embedding_usage
from tollhouse.providers.parsing import ABSENT, UNREADABLE
from tollhouse.providers.sse import ServerSentEvent
from tollhouse.providers.usage import Usage


class _Answer(msgspec.Struct, rename="camel"):
    embedding: dict[str, Any] | None = None
    embeddings: list[dict[str, Any]] | None = None
    usage_metadata: msgspec.Raw = ABSENT


_decoder = msgspec.json.Decoder(_Answer)


class GeminiEmbeddings:
    """Embeddings as Google serves them. Not every model reports usage with them; the caller has to estimate it then."""

    def __init__(self, *, api_key: str, headers: tuple[tuple[str, str], ...]) -> None:
        self._api_key = api_key
        self._headers = headers

    def relay(self, body: Mapping[str, Any], *, model: str, stream: bool, headers: Mapping[str, str]) -> WireRequest:  # noqa: ARG002
        # A body may repeat the path's model, and in a batch each request has to; Google compares them.
        resource = resource_name(model)
        relayed = {**body, "model": resource} if "model" in body else dict(body)
        requests = body.get("requests")
        if isinstance(requests, list):
            relayed["requests"] = [{**each, "model": resource} if isinstance(each, dict) else each for each in requests]
        method = "embedContent" if requests is None else "batchEmbedContents"
        return WireRequest(
            model_path(model, method), (*self._headers, *passed_on(headers)), msgspec.json.encode(relayed)
        )

    def decode(self, response: WireResponse) -> ProviderAnswer:
        if response.status != 200:
            raise refused(response, self._api_key)
        try:
            answer = _decoder.decode(response.body)
        except UNREADABLE as error:
            raise OutcomeUnknown("the provider's answer cannot be read as one of embedContent") from error
        if answer.embedding is None and answer.embeddings is None:
            raise OutcomeUnknown("the provider's answer has no embeddings")
        return ProviderAnswer("", "stop", read_embedding_usage(answer.usage_metadata))

    def stream_reader(self) -> "_NoStream":
        return _NoStream()


class _NoStream:
    """Embeddings do not come in streams: what comes as one cannot be read."""

    usage: Usage | None = None
    is_behind = False
    thinks_unseen = False
    provider_request_id: str | None = None

    def read(self, event: ServerSentEvent) -> Sequence[StreamEvent]:  # noqa: ARG002
        raise OutcomeUnknown("the provider sent a stream in answer to embedContent")

"""OpenAI's Embeddings."""

import base64
from typing import Any, Literal

import msgspec

from tollhouse.testing.behaviour import Behaviour, Tokens
from tollhouse.testing.billing import Bill, Call
from tollhouse.testing.formats.base import MALFORMED, BadCall, NeverStreamed, decoded, without_cache_writes
from tollhouse.testing.formats.openai_errors import OpenAIErrors
from tollhouse.testing.formats.prompt import text_bytes
from tollhouse.testing.formats.vectors import vector

_MAX_INPUTS = 2048


class _EmbeddingsBody(msgspec.Struct):
    model: str
    input: str | list[Any]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None


class EmbeddingsFormat(NeverStreamed, OpenAIErrors):
    """OpenAI's Embeddings."""

    stream_type = ""
    _decoder = msgspec.json.Decoder(_EmbeddingsBody)

    def read(self, target: str, body: bytes) -> Call:  # noqa: ARG002 the target says no more
        ask = decoded(self._decoder, body)
        if ask.dimensions is not None and ask.dimensions < 1:
            raise BadCall("Invalid 'dimensions': integer below minimum value. Expected a value >= 1.")
        ask.input = _inputs(ask.input)
        prompt_tokens = sum(len(each) for each in ask.input if isinstance(each, list))
        return Call(ask.model, text_bytes(ask.input), max_tokens=0, prompt_tokens=prompt_tokens, details=ask)

    def fold(self, tokens: Tokens) -> Tokens:
        # There is no cache of prompts here, nor anything thought.
        fresh = without_cache_writes(tokens)
        return Tokens(input_tokens=fresh.input_tokens + fresh.cached_input_tokens)

    def answer(self, call: Call, answer_id: str, bill: Bill, behaviour: Behaviour) -> bytes:  # noqa: ARG002
        ask: _EmbeddingsBody = call.details
        data = [
            {"object": "embedding", "index": index, "embedding": _embedding(each, ask)}
            for index, each in enumerate(ask.input)
        ]
        body: dict[str, Any] = {"object": "list", "data": data, "model": call.model}
        if behaviour.usage == "malformed":
            body["usage"] = {"prompt_tokens": MALFORMED["input"], "total_tokens": MALFORMED["output"]}
        elif behaviour.usage != "omitted":
            body["usage"] = {"prompt_tokens": bill.tokens.input_tokens, "total_tokens": bill.tokens.input_tokens}
        return msgspec.json.encode(body)


def _inputs(given: str | list[Any]) -> list[str | list[int]]:
    """Return the texts or lists of tokens; raises BadCall for what is neither."""
    if given and isinstance(given, list) and all(isinstance(token, int) for token in given):
        given = [given]
    inputs = [given] if isinstance(given, str) else given
    if not 1 <= len(inputs) <= _MAX_INPUTS or not all(_is_input(each) for each in inputs):
        raise BadCall("'$.input' is invalid. Please check the API reference.")
    return inputs


def _is_input(given: Any) -> bool:
    if isinstance(given, str):
        return given != ""
    return isinstance(given, list) and given != [] and all(isinstance(token, int) for token in given)


def _embedding(given: str | list[int], ask: _EmbeddingsBody) -> str | list[float]:
    made = vector(given if isinstance(given, str) else repr(given), ask.dimensions)
    return base64.b64encode(made.tobytes()).decode() if ask.encoding_format == "base64" else made.tolist()

"""Google's generateContent, streamed and whole, and its embedContent."""

from collections.abc import Iterator
from typing import Any, ClassVar

import msgspec

from tollhouse.testing.behaviour import Behaviour, Format, Tokens
from tollhouse.testing.billing import NO_LIMIT, Bill, Call
from tollhouse.testing.formats.base import (
    MALFORMED,
    BadCall,
    NeverStreamed,
    decoded,
    encoded_words,
    without_cache_writes,
)
from tollhouse.testing.formats.prompt import definition_bytes, text_bytes
from tollhouse.testing.formats.vectors import vector

_MALFORMED_USAGE = {"promptTokenCount": MALFORMED["input"], "candidatesTokenCount": MALFORMED["output"]}
# Stands for a word, and for a usage, while their event is encoded.
_WORD, _USAGE = "<word>", "<usage>"


class _Content(msgspec.Struct):
    parts: list[Any]
    role: str = "user"


class _GenerationConfig(msgspec.Struct, rename="camel"):
    max_output_tokens: int | None = None


class _GenerateBody(msgspec.Struct, rename="camel"):
    contents: list[_Content]
    system_instruction: _Content | None = None
    generation_config: _GenerationConfig | None = None
    # Google takes a single one without a list, too.
    tools: Any = None


class _EmbedBody(msgspec.Struct, rename="camel"):
    content: _Content
    output_dimensionality: int | None = None


class _BatchBody(msgspec.Struct):
    requests: list[_EmbedBody]


class _Gemini:
    """What Google's APIs have in common."""

    name: Format = "gemini"
    id_header: str | None = None
    is_free = False
    _statuses: ClassVar[dict[int, str]] = {
        400: "INVALID_ARGUMENT",
        401: "UNAUTHENTICATED",
        403: "PERMISSION_DENIED",
        404: "NOT_FOUND",
        429: "RESOURCE_EXHAUSTED",
        500: "INTERNAL",
        503: "UNAVAILABLE",
        504: "DEADLINE_EXCEEDED",
    }

    def error(self, status: int, reason: str, retry_after_s: float | None) -> bytes:
        name = self._statuses.get(status, "UNKNOWN")
        error: dict[str, Any] = {"code": status, "message": reason, "status": name}
        if retry_after_s is not None:
            retry = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": f"{retry_after_s:g}s"}
            error["details"] = [retry]
        return msgspec.json.encode({"error": error})


class GeminiFormat(_Gemini):
    """Google's generateContent and streamGenerateContent."""

    stream_type = "text/event-stream"
    _decoder = msgspec.json.Decoder(_GenerateBody)

    def read(self, target: str, body: bytes) -> Call:
        path, _, query = target.partition("?")
        model, method = _called(path)
        is_streamed = method == "streamGenerateContent"
        if is_streamed and "alt=sse" not in query.split("&"):
            raise BadCall("alt: this fake provider streams events (alt=sse), not a JSON array")
        ask = decoded(self._decoder, body)
        limit = ask.generation_config.max_output_tokens if ask.generation_config else None
        if limit is not None and limit < 1:
            raise BadCall("max_output_tokens must be positive.")
        contents = [*ask.contents, ask.system_instruction] if ask.system_instruction else ask.contents
        prompt_bytes = sum(text_bytes(content.parts) for content in contents) + definition_bytes(
            [ask.tools] if isinstance(ask.tools, dict) else ask.tools
        )
        return Call(model, prompt_bytes, NO_LIMIT if limit is None else limit, is_streamed=is_streamed)

    def fold(self, tokens: Tokens) -> Tokens:
        return without_cache_writes(tokens)

    def answer(self, call: Call, answer_id: str, bill: Bill, behaviour: Behaviour) -> bytes:
        body = _answer(call, answer_id, _whole_part(bill), _finish_reason(bill))
        if behaviour.usage != "omitted":
            body["usageMetadata"] = _MALFORMED_USAGE if behaviour.usage == "malformed" else _usage(bill.tokens)
        return msgspec.json.encode(body)

    def events(self, call: Call, answer_id: str, bill: Bill, behaviour: Behaviour) -> Iterator[bytes]:
        words = encoded_words(bill.content)
        # What the events of the answer's words have in common is encoded once. The usage comes first, so that nothing
        # that a caller sent stands before the places that are filled in.
        usage = {} if behaviour.usage == "omitted" else {"usageMetadata": _USAGE}
        common = _event(usage | _answer(call, answer_id, {"text": _WORD}, None))
        before, _, rest = common.partition(b'"<usage>"') if usage else (b"", b"", common)
        between, _, after = rest.partition(b'"<word>"')
        for count, word in enumerate(words[:-1], 1):
            counted = _encoded_usage(_so_far(bill.tokens, count), behaviour)
            yield b"".join((before, counted, between, word, after))
        part = _whole_part(bill)
        if bill.tool_call is None:
            part = {"text": msgspec.Raw(words[-1]) if words else ""}
        last = _answer(call, answer_id, part, _finish_reason(bill))
        if usage:
            last["usageMetadata"] = msgspec.Raw(_encoded_usage(bill.tokens, behaviour))
        yield _event(last)

    def error_event(self, reason: str, number: int) -> bytes:  # noqa: ARG002 these events have no numbers
        return b"data: %b\r\n\r\n" % self.error(503, reason, None)


class GeminiEmbedFormat(NeverStreamed, _Gemini):
    """Google's embedContent and batchEmbedContents."""

    _one = msgspec.json.Decoder(_EmbedBody)
    _batch = msgspec.json.Decoder(_BatchBody)

    def read(self, target: str, body: bytes) -> Call:
        model, method = _called(target.partition("?")[0])
        is_batch = method == "batchEmbedContents"
        asks = decoded(self._batch, body).requests if is_batch else [decoded(self._one, body)]
        if any(ask.output_dimensionality is not None and ask.output_dimensionality < 1 for ask in asks):
            raise BadCall("output_dimensionality must be positive.")
        prompt_bytes = sum(text_bytes(ask.content.parts) for ask in asks)
        return Call(model, prompt_bytes, max_tokens=0, details=(is_batch, asks))

    def fold(self, tokens: Tokens) -> Tokens:
        # There is no cache of prompts here, nor anything thought.
        fresh = without_cache_writes(tokens)
        return Tokens(input_tokens=fresh.input_tokens + fresh.cached_input_tokens)

    def answer(self, call: Call, answer_id: str, bill: Bill, behaviour: Behaviour) -> bytes:  # noqa: ARG002
        is_batch, asks = call.details
        made = [{"values": _values(ask)} for ask in asks]
        body: dict[str, Any] = {"embeddings": made} if is_batch else {"embedding": made[0]}
        if behaviour.usage == "malformed":
            body["usageMetadata"] = {"promptTokenCount": MALFORMED["input"]}
        elif behaviour.usage != "omitted":
            body["usageMetadata"] = {"promptTokenCount": bill.tokens.input_tokens}
        return msgspec.json.encode(body)


def _called(path: str) -> tuple[str, str]:
    """Return the model and the method that a path names."""
    resource, _, method = path.rpartition(":")
    return resource.rpartition("/")[2], method


def _values(ask: _EmbedBody) -> list[float]:
    texts = [part["text"] for part in ask.content.parts if isinstance(part, dict) and isinstance(part.get("text"), str)]
    return vector("".join(texts), ask.output_dimensionality).tolist()


def _event(body: dict[str, Any]) -> bytes:
    return b"data: %b\r\n\r\n" % msgspec.json.encode(body)


def _answer(call: Call, answer_id: str, part: dict[str, Any], finish_reason: str | None) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"parts": [part], "role": "model"}}
    if finish_reason is not None:
        candidate["finishReason"] = finish_reason
    candidate["index"] = 0
    return {"candidates": [candidate], "modelVersion": call.model, "responseId": answer_id}


def _whole_part(bill: Bill) -> dict[str, Any]:
    if bill.tool_call is None:
        return {"text": bill.content}
    return {"functionCall": {"name": bill.tool_call.name, "args": bill.tool_call.arguments}}


def _finish_reason(bill: Bill) -> str:
    # Google has no reason of its own for an answer that ends with a call.
    return "MAX_TOKENS" if bill.cut_short and bill.tool_call is None else "STOP"


def _so_far(tokens: Tokens, words: int) -> Tokens:
    return msgspec.structs.replace(tokens, output_tokens=min(words, tokens.output_tokens))


def _encoded_usage(tokens: Tokens, behaviour: Behaviour) -> bytes:
    if behaviour.usage == "omitted":
        return b""
    return msgspec.json.encode(_MALFORMED_USAGE if behaviour.usage == "malformed" else _usage(tokens))


def _usage(tokens: Tokens) -> dict[str, Any]:
    prompt = tokens.input_tokens + tokens.cached_input_tokens
    counts = {
        "cachedContentTokenCount": tokens.cached_input_tokens,
        "candidatesTokenCount": tokens.output_tokens,
        "thoughtsTokenCount": tokens.reasoning_tokens,
    }
    # Google leaves counts of zero out.
    return {
        "promptTokenCount": prompt,
        **{name: count for name, count in counts.items() if count},
        "totalTokenCount": prompt + tokens.output_tokens + tokens.reasoning_tokens,
    }

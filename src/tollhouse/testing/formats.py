"""The four wire formats from the provider's side: read a request, write an answer or an error as the vendor does.

They are written from the vendors' documentation and recorded traffic, apart from the service's own adapters: code
shared by the two sides would repeat a misreading on both.
"""

from typing import Any, ClassVar, Protocol

import msgspec

from tollhouse.testing.behaviour import Behaviour, Format, Tokens
from tollhouse.testing.billing import Bill, Call

# Answers carry no clock: any fixed second will do.
_CREATED_S = 1_760_000_000
_MALFORMED = {"input": -7, "output": "many"}


class BadCall(Exception):
    """The request is not one of its format; the message says what was expected."""


class WireFormat(Protocol):
    """One vendor's side of the wire. Every ``bytes`` is a JSON body."""

    name: Format
    id_header: str | None
    """The header in which this vendor repeats a call's id."""

    def read(self, path: str, body: bytes) -> Call:
        """Raises BadCall."""

    def fold(self, tokens: Tokens) -> Tokens:
        """Merge the classes that this format does not tell apart."""

    def answer(self, call: Call, answer_id: str, bill: Bill, behaviour: Behaviour) -> bytes: ...

    def error(self, status: int, reason: str, retry_after_s: float | None) -> bytes: ...


def _decoded(decoder: msgspec.json.Decoder[Any], body: bytes) -> Any:
    try:
        return decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadCall(str(error)) from error


def _text_bytes(content: Any) -> int:
    """Return the UTF-8 bytes of a text, of a list of parts with a ``text``, or of nothing."""
    if isinstance(content, str):
        return len(content.encode())
    if isinstance(content, list):
        return sum(_text_bytes(part.get("text")) for part in content if isinstance(part, dict))
    return 0


def _prompt_bytes(turns: list["_Turn"], system: Any = None) -> int:
    return _text_bytes(system) + sum(_text_bytes(turn.content) for turn in turns)


class _Turn(msgspec.Struct):
    role: str
    content: Any = None


class _MessagesBody(msgspec.Struct):
    model: str
    max_tokens: int
    messages: list[_Turn]
    system: Any = None
    stream: bool = False


class AnthropicFormat:
    """Anthropic's Messages."""

    name: Format = "anthropic"
    id_header: str | None = "request-id"
    _decoder = msgspec.json.Decoder(_MessagesBody)
    _types: ClassVar[dict[int, str]] = {
        400: "invalid_request_error",
        401: "authentication_error",
        402: "billing_error",
        403: "permission_error",
        404: "not_found_error",
        413: "request_too_large",
        429: "rate_limit_error",
        504: "timeout_error",
        529: "overloaded_error",
    }

    def read(self, path: str, body: bytes) -> Call:  # noqa: ARG002 the path says no more
        ask = _decoded(self._decoder, body)
        _refuse_stream(ask.stream)
        if ask.max_tokens < 1:
            raise BadCall("max_tokens: Input should be greater than or equal to 1")
        return Call(ask.model, _prompt_bytes(ask.messages, ask.system), ask.max_tokens)

    def fold(self, tokens: Tokens) -> Tokens:
        return tokens

    def answer(self, call: Call, answer_id: str, bill: Bill, behaviour: Behaviour) -> bytes:
        body: dict[str, Any] = {
            "id": answer_id,
            "type": "message",
            "role": "assistant",
            "model": call.model,
            "content": [{"type": "text", "text": bill.content}],
            "stop_reason": "max_tokens" if bill.cut_short else "end_turn",
            "stop_sequence": None,
        }
        if behaviour.usage == "malformed":
            body["usage"] = {"input_tokens": _MALFORMED["input"], "output_tokens": _MALFORMED["output"]}
        elif behaviour.usage != "omitted":
            body["usage"] = self._usage(bill.tokens)
        return msgspec.json.encode(body)

    def _usage(self, tokens: Tokens) -> dict[str, Any]:
        return {
            "input_tokens": tokens.input_tokens,
            "cache_creation_input_tokens": tokens.cache_write_tokens + tokens.cache_write_1h_tokens,
            "cache_read_input_tokens": tokens.cached_input_tokens,
            "cache_creation": {
                "ephemeral_5m_input_tokens": tokens.cache_write_tokens,
                "ephemeral_1h_input_tokens": tokens.cache_write_1h_tokens,
            },
            "output_tokens": tokens.output_tokens + tokens.reasoning_tokens,
            "output_tokens_details": {"thinking_tokens": tokens.reasoning_tokens},
            "service_tier": "standard",
        }

    def error(self, status: int, reason: str, retry_after_s: float | None) -> bytes:  # noqa: ARG002 a header says it
        kind = self._types.get(status, "api_error" if status >= 500 else "invalid_request_error")
        return msgspec.json.encode({"type": "error", "error": {"type": kind, "message": reason}, "request_id": "fake"})


class _ChatBody(msgspec.Struct):
    model: str
    messages: list[_Turn]
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    stream: bool = False


class OpenAIFormat:
    """OpenAI's Chat Completions."""

    name: Format = "openai"
    id_header: str | None = "x-request-id"
    _decoder = msgspec.json.Decoder(_ChatBody)
    _errors: ClassVar[dict[int, tuple[str, str]]] = {
        401: ("invalid_request_error", "invalid_api_key"),
        404: ("invalid_request_error", "model_not_found"),
        429: ("requests", "rate_limit_exceeded"),
    }

    def read(self, path: str, body: bytes) -> Call:  # noqa: ARG002 the path says no more
        ask = _decoded(self._decoder, body)
        _refuse_stream(ask.stream)
        if ask.max_tokens is not None and ask.max_completion_tokens is not None:
            raise BadCall("Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported.")
        limits = [limit for limit in (ask.max_tokens, ask.max_completion_tokens) if limit is not None]
        if limits and limits[0] < 1:
            raise BadCall("Invalid 'max_tokens': integer below minimum value. Expected a value >= 1.")
        return Call(ask.model, _prompt_bytes(ask.messages), *limits)

    def fold(self, tokens: Tokens) -> Tokens:
        if not tokens.cache_write_1h_tokens:
            return tokens
        written = tokens.cache_write_tokens + tokens.cache_write_1h_tokens
        return msgspec.structs.replace(tokens, cache_write_tokens=written, cache_write_1h_tokens=0)

    def answer(self, call: Call, answer_id: str, bill: Bill, behaviour: Behaviour) -> bytes:
        message: dict[str, Any] = {"role": "assistant", "content": bill.content, "refusal": None, "annotations": []}
        finish_reason = "length" if bill.cut_short else "stop"
        body: dict[str, Any] = {
            "id": answer_id,
            "object": "chat.completion",
            "created": _CREATED_S,
            "model": call.model,
            "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": finish_reason}],
            "system_fingerprint": None,
        }
        if behaviour.usage == "malformed":
            body["usage"] = {"prompt_tokens": _MALFORMED["input"], "completion_tokens": _MALFORMED["output"]}
        elif behaviour.usage != "omitted":
            body["usage"] = self._usage(bill.tokens)
        return msgspec.json.encode(body)

    def _usage(self, tokens: Tokens) -> dict[str, Any]:
        prompt = tokens.input_tokens + tokens.cached_input_tokens + tokens.cache_write_tokens
        completion = tokens.output_tokens + tokens.reasoning_tokens
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {
                "cached_tokens": tokens.cached_input_tokens,
                "cache_write_tokens": tokens.cache_write_tokens,
                "audio_tokens": 0,
            },
            "completion_tokens_details": {"reasoning_tokens": tokens.reasoning_tokens, "audio_tokens": 0},
        }

    def error(self, status: int, reason: str, retry_after_s: float | None) -> bytes:  # noqa: ARG002 a header says it
        default = "server_error" if status >= 500 else "invalid_request_error"
        kind, code = self._errors.get(status) or (default, None)
        return msgspec.json.encode({"error": {"message": reason, "type": kind, "param": None, "code": code}})


class DeepSeekFormat(OpenAIFormat):
    """DeepSeek's chat completions."""

    name: Format = "deepseek"
    id_header: str | None = None
    _errors: ClassVar[dict[int, tuple[str, str]]] = {
        401: ("authentication_error", "invalid_request_error"),
        402: ("unknown_error", "invalid_request_error"),
        429: ("rate_limit_reached", "invalid_request_error"),
    }

    def fold(self, tokens: Tokens) -> Tokens:
        return _without_cache_writes(tokens)

    def _usage(self, tokens: Tokens) -> dict[str, Any]:
        usage = super()._usage(tokens)
        del usage["prompt_tokens_details"]["cache_write_tokens"]
        return usage | {
            "prompt_cache_hit_tokens": tokens.cached_input_tokens,
            "prompt_cache_miss_tokens": tokens.input_tokens,
        }


class _Parts(msgspec.Struct):
    parts: list[Any]
    role: str = "user"


class _GenerationConfig(msgspec.Struct, rename="camel"):
    max_output_tokens: int | None = None


class _GenerateBody(msgspec.Struct, rename="camel"):
    contents: list[_Parts]
    system_instruction: _Parts | None = None
    generation_config: _GenerationConfig | None = None


class GeminiFormat:
    """Google's generateContent."""

    name: Format = "gemini"
    id_header: str | None = None
    _decoder = msgspec.json.Decoder(_GenerateBody)
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

    def read(self, path: str, body: bytes) -> Call:
        ask = _decoded(self._decoder, body)
        limit = ask.generation_config.max_output_tokens if ask.generation_config else None
        if limit is not None and limit < 1:
            raise BadCall("max_output_tokens must be positive.")
        texts = [*ask.contents, ask.system_instruction] if ask.system_instruction else ask.contents
        model = path.rpartition(":")[0].rpartition("/")[2]
        return Call(model, sum(_text_bytes(turn.parts) for turn in texts), *([] if limit is None else [limit]))

    def fold(self, tokens: Tokens) -> Tokens:
        return _without_cache_writes(tokens)

    def answer(self, call: Call, answer_id: str, bill: Bill, behaviour: Behaviour) -> bytes:
        candidate = {
            "content": {"parts": [{"text": bill.content}], "role": "model"},
            "finishReason": "MAX_TOKENS" if bill.cut_short else "STOP",
            "index": 0,
        }
        body: dict[str, Any] = {"candidates": [candidate], "modelVersion": call.model, "responseId": answer_id}
        if behaviour.usage == "malformed":
            body["usageMetadata"] = {
                "promptTokenCount": _MALFORMED["input"],
                "candidatesTokenCount": _MALFORMED["output"],
            }
        elif behaviour.usage != "omitted":
            body["usageMetadata"] = self._usage(bill.tokens)
        return msgspec.json.encode(body)

    def _usage(self, tokens: Tokens) -> dict[str, Any]:
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

    def error(self, status: int, reason: str, retry_after_s: float | None) -> bytes:
        name = self._statuses.get(status, "UNKNOWN")
        error: dict[str, Any] = {"code": status, "message": reason, "status": name}
        if retry_after_s is not None:
            retry = {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": f"{retry_after_s:g}s"}
            error["details"] = [retry]
        return msgspec.json.encode({"error": error})


def _without_cache_writes(tokens: Tokens) -> Tokens:
    written = tokens.cache_write_tokens + tokens.cache_write_1h_tokens
    if not written:
        return tokens
    fresh = tokens.input_tokens + written
    return msgspec.structs.replace(tokens, input_tokens=fresh, cache_write_tokens=0, cache_write_1h_tokens=0)


def _refuse_stream(stream: bool) -> None:
    if stream:
        raise BadCall("stream: this fake provider answers whole, not in events")


_CHAT = "/chat/completions"
_BY_PATH: dict[str, WireFormat] = {
    "/v1/messages": AnthropicFormat(),
    f"/v1{_CHAT}": OpenAIFormat(),
    _CHAT: DeepSeekFormat(),
}
_GEMINI = GeminiFormat()

BASE_PATHS: dict[Format, str] = {"anthropic": "", "openai": "/v1", "deepseek": "", "gemini": ""}
"""What follows host and port in the base URL that each vendor's own SDK would be given."""


def format_at(path: str) -> WireFormat | None:
    """Return the format spoken at a path, or None where none is."""
    if path.startswith("/v1beta/") and path.endswith(":generateContent"):
        return _GEMINI
    return _BY_PATH.get(path)

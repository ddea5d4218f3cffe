"""Anthropic's Messages, and its counting of tokens."""

from collections.abc import Iterator
from typing import Any, ClassVar

import msgspec

from tollhouse.testing.behaviour import Behaviour, Format, Tokens
from tollhouse.testing.billing import Bill, Call
from tollhouse.testing.formats.base import (
    MALFORMED,
    BadCall,
    NeverStreamed,
    decoded,
    encoded_arguments,
    encoded_words,
    event,
)
from tollhouse.testing.formats.prompt import definition_bytes, text_bytes

_PING = b'event: ping\ndata: {"type": "ping"}\n\n'
_TEXT_DELTA = (
    b"event: content_block_delta\n"
    b'data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":%b}}\n\n'
)
_INPUT_DELTA = (
    b"event: content_block_delta\n"
    b'data: {"type":"content_block_delta","index":0,"delta":{"type":"input_json_delta","partial_json":%b}}\n\n'
)


class _Turn(msgspec.Struct):
    role: str
    content: Any = None


class _CountBody(msgspec.Struct):
    model: str
    messages: list[_Turn]
    system: Any = None
    tools: list[Any] | None = None


class _MessagesBody(_CountBody, kw_only=True):
    max_tokens: int
    stream: bool = False


class _Anthropic:
    """What Anthropic's APIs have in common."""

    name: Format = "anthropic"
    id_header: str | None = "request-id"
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

    def fold(self, tokens: Tokens) -> Tokens:
        return tokens

    def error(self, status: int, reason: str, retry_after_s: float | None) -> bytes:  # noqa: ARG002 a header says it
        return msgspec.json.encode(self._error(status, reason))

    def _error(self, status: int, reason: str) -> dict[str, Any]:
        kind = self._types.get(status, "api_error" if status >= 500 else "invalid_request_error")
        return {"type": "error", "error": {"type": kind, "message": reason}, "request_id": "fake"}


class AnthropicFormat(_Anthropic):
    """Anthropic's Messages."""

    stream_type = "text/event-stream; charset=utf-8"
    is_free = False
    _decoder = msgspec.json.Decoder(_MessagesBody)

    def read(self, target: str, body: bytes) -> Call:  # noqa: ARG002 the target says no more
        ask = decoded(self._decoder, body)
        if ask.max_tokens < 1:
            raise BadCall("max_tokens: Input should be greater than or equal to 1")
        return Call(ask.model, _prompt_bytes(ask), ask.max_tokens, is_streamed=ask.stream)

    def answer(self, call: Call, answer_id: str, bill: Bill, behaviour: Behaviour) -> bytes:
        block = _block(answer_id, bill)
        if bill.tool_call is None:
            block["text"] = bill.content
        else:
            block["input"] = bill.tool_call.arguments
        body = _message(call, answer_id, [block], _stop_reason(bill))
        if behaviour.usage == "malformed":
            body["usage"] = _MALFORMED_USAGE
        elif behaviour.usage != "omitted":
            body["usage"] = _usage(bill.tokens)
        return msgspec.json.encode(body)

    def events(self, call: Call, answer_id: str, bill: Bill, behaviour: Behaviour) -> Iterator[bytes]:
        message = _message(call, answer_id, [], None)
        end: dict[str, Any] = {
            "type": "message_delta",
            "delta": {"stop_reason": _stop_reason(bill), "stop_sequence": None},
        }
        if behaviour.usage == "malformed":
            message["usage"] = end["usage"] = _MALFORMED_USAGE
        elif behaviour.usage != "omitted":
            message["usage"] = _first_usage(bill.tokens)
            end["usage"] = _last_usage(bill.tokens)
        yield event({"type": "message_start", "message": message}, "message_start")
        start = {"type": "content_block_start", "index": 0, "content_block": _block(answer_id, bill)}
        yield event(start, "content_block_start")
        yield _PING
        if bill.tool_call is None:
            for word in encoded_words(bill.content):
                yield _TEXT_DELTA % word
        else:
            for piece in (b'""', *encoded_arguments(bill.arguments)):
                yield _INPUT_DELTA % piece
        yield event({"type": "content_block_stop", "index": 0}, "content_block_stop")
        yield event(end, "message_delta")
        yield event({"type": "message_stop"}, "message_stop")

    def error_event(self, reason: str, number: int) -> bytes:  # noqa: ARG002 these events have no numbers
        return event(self._error(529, reason), "error")


class CountTokensFormat(NeverStreamed, _Anthropic):
    """Anthropic's counting of a prompt's tokens, which costs nothing."""

    is_free = True
    _decoder = msgspec.json.Decoder(_CountBody)

    def read(self, target: str, body: bytes) -> Call:  # noqa: ARG002 the target says no more
        ask = decoded(self._decoder, body)
        return Call(ask.model, _prompt_bytes(ask), max_tokens=0)

    def answer(self, call: Call, answer_id: str, bill: Bill, behaviour: Behaviour) -> bytes:  # noqa: ARG002
        tokens = bill.tokens
        caches = tokens.cached_input_tokens + tokens.cache_write_tokens + tokens.cache_write_1h_tokens
        return msgspec.json.encode({"input_tokens": tokens.input_tokens + caches})


_MALFORMED_USAGE = {"input_tokens": MALFORMED["input"], "output_tokens": MALFORMED["output"]}


def _prompt_bytes(ask: _CountBody) -> int:
    turns = sum(text_bytes(turn.content) for turn in ask.messages)
    return turns + text_bytes(ask.system) + definition_bytes(ask.tools)


def _block(answer_id: str, bill: Bill) -> dict[str, Any]:
    """Return the answer's one content block as it is when a stream begins it."""
    if bill.tool_call is None:
        return {"type": "text", "text": ""}
    return {"type": "tool_use", "id": f"toolu_{answer_id}", "name": bill.tool_call.name, "input": {}}


def _stop_reason(bill: Bill) -> str:
    if bill.tool_call is not None:
        return "tool_use"
    return "max_tokens" if bill.cut_short else "end_turn"


def _message(call: Call, answer_id: str, content: list[Any], stop_reason: str | None) -> dict[str, Any]:
    return {
        "id": answer_id,
        "type": "message",
        "role": "assistant",
        "model": call.model,
        "content": content,
        "stop_reason": stop_reason,
        "stop_sequence": None,
    }


def _usage(tokens: Tokens) -> dict[str, Any]:
    return _input_usage(tokens) | {
        "cache_creation": _cache_creation(tokens),
        "output_tokens": tokens.output_tokens + tokens.reasoning_tokens,
        "output_tokens_details": {"thinking_tokens": tokens.reasoning_tokens},
        "service_tier": "standard",
    }


def _first_usage(tokens: Tokens) -> dict[str, Any]:
    """Return what a stream begins with: the input in all classes, and output in its infancy."""
    output = min(1, tokens.output_tokens + tokens.reasoning_tokens)
    creation = _cache_creation(tokens)
    return _input_usage(tokens) | {
        "cache_creation": creation,
        "output_tokens": output,
        "service_tier": "standard",
    }


def _last_usage(tokens: Tokens) -> dict[str, Any]:
    """Return what a stream ends with: all sums, and of the written cache no more than its sum."""
    return _input_usage(tokens) | {
        "output_tokens": tokens.output_tokens + tokens.reasoning_tokens,
        "output_tokens_details": {"thinking_tokens": tokens.reasoning_tokens},
    }


def _input_usage(tokens: Tokens) -> dict[str, Any]:
    return {
        "input_tokens": tokens.input_tokens,
        "cache_creation_input_tokens": tokens.cache_write_tokens + tokens.cache_write_1h_tokens,
        "cache_read_input_tokens": tokens.cached_input_tokens,
    }


def _cache_creation(tokens: Tokens) -> dict[str, int]:
    return {
        "ephemeral_5m_input_tokens": tokens.cache_write_tokens,
        "ephemeral_1h_input_tokens": tokens.cache_write_1h_tokens,
    }

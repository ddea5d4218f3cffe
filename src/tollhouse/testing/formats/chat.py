"""OpenAI's Chat Completions, and DeepSeek's."""

from collections.abc import Iterator
from typing import Any

import msgspec

from tollhouse.testing.behaviour import Behaviour, Tokens
from tollhouse.testing.billing import NO_LIMIT, Bill, Call
from tollhouse.testing.formats.base import (
    CREATED_S,
    MALFORMED,
    BadCall,
    decoded,
    encoded_arguments,
    encoded_words,
    event,
    with_one_cache_write,
    without_cache_writes,
)
from tollhouse.testing.formats.openai_errors import DeepSeekErrors, OpenAIErrors
from tollhouse.testing.formats.prompt import definition_bytes, text_bytes

# Stands for a word while its event is encoded. Nothing that a caller sends comes after it.
_WORD = "<word>"
_DONE = b"data: [DONE]\n\n"
_MALFORMED_USAGE = {"prompt_tokens": MALFORMED["input"], "completion_tokens": MALFORMED["output"]}


class _Turn(msgspec.Struct):
    role: str
    content: Any = None
    name: Any = None
    refusal: Any = None
    reasoning_content: Any = None
    tool_calls: Any = None


class _StreamOptions(msgspec.Struct):
    include_usage: bool = False


class _ChatBody(msgspec.Struct):
    model: str
    messages: list[_Turn]
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    tools: list[Any] | None = None


class OpenAIFormat(OpenAIErrors):
    """OpenAI's Chat Completions."""

    _decoder = msgspec.json.Decoder(_ChatBody)

    def read(self, target: str, body: bytes) -> Call:  # noqa: ARG002 the target says no more
        ask = decoded(self._decoder, body)
        if ask.max_tokens is not None and ask.max_completion_tokens is not None:
            raise BadCall("Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported.")
        limits = [limit for limit in (ask.max_tokens, ask.max_completion_tokens) if limit is not None]
        if limits and limits[0] < 1:
            raise BadCall("Invalid 'max_tokens': integer below minimum value. Expected a value >= 1.")
        if ask.stream_options is not None and not ask.stream:
            raise BadCall("The 'stream_options' parameter is only allowed when 'stream' is enabled.")
        includes_usage = ask.stream_options is not None and ask.stream_options.include_usage
        prompt_bytes = sum(_turn_bytes(turn) for turn in ask.messages) + definition_bytes(ask.tools)
        limit = limits[0] if limits else NO_LIMIT
        return Call(ask.model, prompt_bytes, limit, is_streamed=bool(ask.stream), details=includes_usage)

    def fold(self, tokens: Tokens) -> Tokens:
        return with_one_cache_write(tokens)

    def answer(self, call: Call, answer_id: str, bill: Bill, behaviour: Behaviour) -> bytes:
        message: dict[str, Any] = {"role": "assistant", "content": bill.content, "refusal": None, "annotations": []}
        if bill.tool_call is not None:
            message["content"] = None
            message["tool_calls"] = [_tool_call(answer_id, bill.tool_call.name, bill.arguments)]
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": _finish_reason(bill)}
        body = _head("chat.completion", call, answer_id) | {"choices": [choice]}
        return msgspec.json.encode(body | self._reported(bill, behaviour))

    def events(self, call: Call, answer_id: str, bill: Bill, behaviour: Behaviour) -> Iterator[bytes]:
        usage = self._reported(bill, behaviour)
        head = _head("chat.completion.chunk", call, answer_id)
        if call.details:
            # Whoever asked for the usage gets the field in every event.
            head["usage"] = None
        # What the events of the answer's words have in common is encoded once.
        before, _, after = event(head | {"choices": [_choice({"content": _WORD}, None)]}).rpartition(b'"<word>"')
        first: dict[str, Any] = {"role": "assistant", "content": "", "refusal": None}
        if bill.tool_call is None:
            yield event(head | {"choices": [_choice(first, None)]})
            for word in encoded_words(bill.content):
                yield before + word + after
        else:
            first["content"] = None
            first["tool_calls"] = [{"index": 0, **_tool_call(answer_id, bill.tool_call.name, "")}]
            yield event(head | {"choices": [_choice(first, None)]})
            for piece in encoded_arguments(bill.arguments):
                grown = {"index": 0, "function": {"arguments": msgspec.Raw(piece)}}
                yield event(head | {"choices": [_choice({"tool_calls": [grown]}, None)]})
        yield from self._last_events(head, _finish_reason(bill), usage, includes_usage=call.details)

    def error_event(self, reason: str, number: int) -> bytes:  # noqa: ARG002 these events have no numbers
        return event(self._error(503, reason))

    def _last_events(
        self, head: dict[str, Any], finish_reason: str, usage: dict[str, Any], *, includes_usage: bool
    ) -> Iterator[bytes]:
        yield event(head | {"choices": [_choice({}, finish_reason)]})
        if includes_usage and usage:
            yield event(head | {"choices": []} | usage)
        yield _DONE

    def _reported(self, bill: Bill, behaviour: Behaviour) -> dict[str, Any]:
        """Return the usage field as it is to be reported; nothing where it is to be left out."""
        if behaviour.usage == "omitted":
            return {}
        return {"usage": _MALFORMED_USAGE if behaviour.usage == "malformed" else self._usage(bill.tokens)}

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


class DeepSeekFormat(DeepSeekErrors, OpenAIFormat):
    """DeepSeek's chat completions."""

    def fold(self, tokens: Tokens) -> Tokens:
        return without_cache_writes(tokens)

    def _last_events(
        self, head: dict[str, Any], finish_reason: str, usage: dict[str, Any], *, includes_usage: bool
    ) -> Iterator[bytes]:
        del includes_usage
        # DeepSeek reports the usage with the last choice, asked or not.
        yield event(head | {"choices": [_choice({"content": ""}, finish_reason)]} | usage)
        yield _DONE

    def _usage(self, tokens: Tokens) -> dict[str, Any]:
        usage = super()._usage(tokens)
        del usage["prompt_tokens_details"]["cache_write_tokens"]
        return usage | {
            "prompt_cache_hit_tokens": tokens.cached_input_tokens,
            "prompt_cache_miss_tokens": tokens.input_tokens,
        }


def _turn_bytes(turn: _Turn) -> int:
    texts = text_bytes(turn.content)
    if turn.name is turn.refusal is turn.reasoning_content is turn.tool_calls is None:
        return texts
    return texts + text_bytes([turn.name, turn.refusal, turn.reasoning_content, turn.tool_calls])


def _head(kind: str, call: Call, answer_id: str) -> dict[str, Any]:
    return {
        "id": answer_id,
        "object": kind,
        "created": CREATED_S,
        "model": call.model,
        "system_fingerprint": None,
    }


def _choice(delta: dict[str, Any], finish_reason: str | None) -> dict[str, Any]:
    return {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}


def _tool_call(answer_id: str, name: str, arguments: str) -> dict[str, Any]:
    return {"id": f"call_{answer_id}", "type": "function", "function": {"name": name, "arguments": arguments}}


def _finish_reason(bill: Bill) -> str:
    if bill.tool_call is not None:
        return "tool_calls"
    return "length" if bill.cut_short else "stop"

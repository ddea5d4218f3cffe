"""OpenAI's Responses, and DeepSeek's."""

from collections.abc import Iterator
from itertools import count
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

_TEXT_DELTA = (
    b"event: response.output_text.delta\n"
    b'data: {"type":"response.output_text.delta","content_index":0,"delta":%b,"item_id":"msg_%b","logprobs":[],'
    b'"output_index":0,"sequence_number":%d}\n\n'
)
_ARGUMENTS_DELTA = (
    b"event: response.function_call_arguments.delta\n"
    b'data: {"type":"response.function_call_arguments.delta","delta":%b,"item_id":"fc_%b",'
    b'"output_index":0,"sequence_number":%d}\n\n'
)


class _ResponsesBody(msgspec.Struct):
    model: str
    input: Any = None
    instructions: str | list[Any] | None = None
    max_output_tokens: int | None = None
    stream: bool | None = None
    tools: list[Any] | None = None
    tool_choice: Any = "auto"


class ResponsesFormat(OpenAIErrors):
    """OpenAI's Responses. What an earlier response or a conversation holds is not known, and not billed."""

    _decoder = msgspec.json.Decoder(_ResponsesBody)

    def read(self, target: str, body: bytes) -> Call:  # noqa: ARG002 the target says no more
        ask = decoded(self._decoder, body)
        if not isinstance(ask.input, str | list):
            raise BadCall("Invalid type for 'input': expected a string or an array.")
        limit = ask.max_output_tokens
        if limit is not None and limit < 1:
            raise BadCall("Invalid 'max_output_tokens': integer below minimum value.")
        prompt_bytes = text_bytes(ask.input) + text_bytes(ask.instructions) + definition_bytes(ask.tools)
        limit = NO_LIMIT if limit is None else limit
        return Call(ask.model, prompt_bytes, limit, is_streamed=bool(ask.stream), details=_repeated(ask))

    def fold(self, tokens: Tokens) -> Tokens:
        return with_one_cache_write(tokens)

    def answer(self, call: Call, answer_id: str, bill: Bill, behaviour: Behaviour) -> bytes:
        return msgspec.json.encode(self._whole(call, answer_id, bill, behaviour))

    def events(self, call: Call, answer_id: str, bill: Bill, behaviour: Behaviour) -> Iterator[bytes]:
        numbers = count()
        begun = _response(call, answer_id, "in_progress")
        yield _event("response.created", next(numbers), response=begun)
        yield _event("response.in_progress", next(numbers), response=begun)
        item = _item(answer_id, bill, "in_progress")
        yield _event("response.output_item.added", next(numbers), item=item, output_index=0)
        yield from _grown(answer_id, bill, numbers)
        whole = self._whole(call, answer_id, bill, behaviour)
        yield _event("response.output_item.done", next(numbers), item=whole["output"][0], output_index=0)
        yield _event(f"response.{whole['status']}", next(numbers), response=whole)

    def error_event(self, reason: str, number: int) -> bytes:
        return _event("error", number, code="server_error", message=reason, param=None)

    def _whole(self, call: Call, answer_id: str, bill: Bill, behaviour: Behaviour) -> dict[str, Any]:
        cut_short = bill.cut_short and bill.tool_call is None
        body = _response(call, answer_id, "incomplete" if cut_short else "completed")
        body["output"] = [_item(answer_id, bill, body["status"])]
        if cut_short:
            body["incomplete_details"] = {"reason": "max_output_tokens"}
        if behaviour.usage == "malformed":
            body["usage"] = {"input_tokens": MALFORMED["input"], "output_tokens": MALFORMED["output"]}
        elif behaviour.usage != "omitted":
            body["usage"] = self._usage(bill.tokens)
        return body

    def _usage(self, tokens: Tokens) -> dict[str, Any]:
        read = tokens.input_tokens + tokens.cached_input_tokens + tokens.cache_write_tokens
        written = tokens.output_tokens + tokens.reasoning_tokens
        return {
            "input_tokens": read,
            "input_tokens_details": {
                "cache_write_tokens": tokens.cache_write_tokens,
                "cached_tokens": tokens.cached_input_tokens,
            },
            "output_tokens": written,
            "output_tokens_details": {"reasoning_tokens": tokens.reasoning_tokens},
            "total_tokens": read + written,
        }


class DeepSeekResponsesFormat(DeepSeekErrors, ResponsesFormat):
    """DeepSeek's Responses."""

    def fold(self, tokens: Tokens) -> Tokens:
        return without_cache_writes(tokens)

    def _usage(self, tokens: Tokens) -> dict[str, Any]:
        usage = super()._usage(tokens)
        del usage["input_tokens_details"]["cache_write_tokens"]
        return usage


def _event(name: str, number: int, **fields: Any) -> bytes:
    return event({"type": name, **fields, "sequence_number": number}, name)


def _repeated(ask: _ResponsesBody) -> dict[str, Any]:
    """Return what a response repeats of its request."""
    return {
        "instructions": ask.instructions,
        "max_output_tokens": ask.max_output_tokens,
        "tool_choice": ask.tool_choice,
        # It goes out up to three times a stream, and need not be encoded each time.
        "tools": msgspec.Raw(msgspec.json.encode(ask.tools or [])),
    }


def _response(call: Call, answer_id: str, status: str) -> dict[str, Any]:
    return {
        "id": answer_id,
        "object": "response",
        "created_at": CREATED_S,
        "status": status,
        "background": False,
        "error": None,
        "incomplete_details": None,
        "model": call.model,
        "output": [],
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "service_tier": "default",
        "store": True,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}, "verbosity": "medium"},
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": None,
        "user": None,
        "metadata": {},
        **call.details,
    }


def _item(answer_id: str, bill: Bill, status: str) -> dict[str, Any]:
    """Return the one item of the output: whole, or empty while it is in progress."""
    is_begun = status == "in_progress"
    if bill.tool_call is None:
        content = [] if is_begun else [_text_part(bill.content)]
        return {
            "id": f"msg_{answer_id}",
            "type": "message",
            "status": status,
            "content": content,
            "role": "assistant",
        }
    return {
        "id": f"fc_{answer_id}",
        "type": "function_call",
        "status": status,
        "arguments": "" if is_begun else bill.arguments,
        "call_id": f"call_{answer_id}",
        "name": bill.tool_call.name,
    }


def _text_part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "annotations": [], "logprobs": [], "text": text}


def _grown(answer_id: str, bill: Bill, numbers: Iterator[int]) -> Iterator[bytes]:
    """Make the events between the beginning of the item and its end."""
    own_id = answer_id.encode()
    if bill.tool_call is not None:
        for piece in encoded_arguments(bill.arguments):
            yield _ARGUMENTS_DELTA % (piece, own_id, next(numbers))
        done = {"arguments": bill.arguments, "item_id": f"fc_{answer_id}", "output_index": 0}
        yield _event("response.function_call_arguments.done", next(numbers), **done)
        return
    place = {"content_index": 0, "item_id": f"msg_{answer_id}", "output_index": 0}
    yield _event("response.content_part.added", next(numbers), part=_text_part(""), **place)
    for word in encoded_words(bill.content):
        yield _TEXT_DELTA % (word, own_id, next(numbers))
    yield _event("response.output_text.done", next(numbers), text=bill.content, logprobs=[], **place)
    yield _event("response.content_part.done", next(numbers), part=_text_part(bill.content), **place)

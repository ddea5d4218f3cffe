"""Writing answers as chat completions, whole and streamed."""

from typing import Any

import msgspec

from tollhouse.completions.wire.base import AnswerHead
from tollhouse.providers.conversation import (
    Finished,
    FinishReason,
    PartBegun,
    PartGrew,
    ProviderAnswer,
    StreamEvent,
    Text,
    Thinking,
    ToolCall,
)
from tollhouse.providers.sse import encode_event
from tollhouse.providers.usage import Usage

_FINISH: dict[FinishReason, str] = {
    "stop": "stop",
    "length": "length",
    "content_filter": "content_filter",
    "tool_calls": "tool_calls",
    # A whole answer tells it by its ``refusal``.
    "refusal": "stop",
    "other": "stop",
}
_DONE = encode_event(b"[DONE]")

_encode = msgspec.json.Encoder().encode


def chat_completion(answer: ProviderAnswer, usage: Usage, head: AnswerHead) -> bytes:
    """Return a whole answer."""
    finish = _FINISH[answer.finish_reason]
    if answer.finish_reason == "refusal" and not answer.content:
        finish = "content_filter"
    choice = {"index": 0, "message": _message(answer), "logprobs": None, "finish_reason": finish}
    return _encode(
        {
            "id": _id(head),
            "object": "chat.completion",
            "created": head.created_s,
            "model": head.model,
            "choices": [choice],
            "usage": usage_object(usage),
        }
    )


def usage_object(usage: Usage) -> dict[str, Any]:
    """Return usage in OpenAI's counting: input includes what was cached, output what was thought."""
    prompt = usage.all_input_tokens
    return {
        "prompt_tokens": prompt,
        "completion_tokens": usage.total_tokens - prompt,
        "total_tokens": usage.total_tokens,
        "prompt_tokens_details": {
            "cached_tokens": usage.cached_input_tokens,
            "cache_write_tokens": usage.cache_write_tokens + usage.cache_write_1h_tokens,
            "audio_tokens": usage.audio_input_tokens,
        },
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning_tokens,
            "audio_tokens": usage.audio_output_tokens,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }


def _id(head: AnswerHead) -> str:
    return f"chatcmpl-{head.id.removeprefix('req_')}"


def _message(answer: ProviderAnswer) -> dict[str, Any]:
    calls = [part for part in answer.parts if isinstance(part, ToolCall)]
    thoughts = [part for part in answer.parts if isinstance(part, Thinking)]
    is_refusal = answer.finish_reason == "refusal" and bool(answer.content)
    has_content = not is_refusal and (bool(answer.content) or not calls)
    message: dict[str, Any] = {
        "role": "assistant",
        "content": answer.content if has_content else None,
        "refusal": answer.content if is_refusal else None,
    }
    if thought := "".join(part.text for part in thoughts):
        message["reasoning_content"] = thought
    if any(part.signature is not None or part.redacted is not None for part in thoughts):
        # Without its signature, a vendor does not take its thinking back. OpenAI's SDKs keep fields that they do not
        # know, and send them back with the message.
        message["thinking_blocks"] = [_thinking_block(part.text, part.signature, part.redacted) for part in thoughts]
    if calls:
        message["tool_calls"] = [_call(call) for call in calls]
    return message


def _thinking_block(text: str, signature: str | None, redacted: str | None) -> dict[str, Any]:
    if redacted is not None:
        return {"type": "redacted_thinking", "data": redacted}
    return {"type": "thinking", "thinking": text, "signature": signature}


def _call(call: ToolCall) -> dict[str, Any]:
    written: dict[str, Any] = {
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    }
    return written if call.signature is None else {**written, "extra_content": _extra_content(call.signature)}


def _extra_content(signature: str) -> dict[str, Any]:
    return {"google": {"thought_signature": signature}}


class _Thought(msgspec.Struct):
    """Thinking that goes on."""

    redacted: str | None
    pieces: list[str] = []
    signature: str | None = None


class ChatStreamWriter:
    """Writes one streamed answer.

    Args:
        head: what every chunk says.
        shows_usage: the client asked for the chunk with the usage.
    """

    def __init__(self, head: AnswerHead, *, shows_usage: bool) -> None:
        self._shows_usage = shows_usage
        opening = {
            "id": _id(head),
            "object": "chat.completion.chunk",
            "created": head.created_s,
            "model": head.model,
        }
        # All chunks begin alike: that is encoded once.
        self._opening = _encode(opening).removesuffix(b"}")
        self._usage_of_others = b',"usage":null}' if shows_usage else b"}"
        self._finish_reason: FinishReason = "stop"
        self._kinds: dict[int, type[Text | Thinking | ToolCall]] = {}
        self._call_indices: dict[int, int] = {}
        self._thoughts: dict[int, _Thought] = {}
        self._blocks = 0

    def begin(self) -> bytes:
        return self._chunk({"role": "assistant", "content": "", "refusal": None})

    def write(self, event: StreamEvent) -> bytes:
        if isinstance(event, PartGrew):
            return self._grown(event)
        if isinstance(event, PartBegun):
            return self._begun(event)
        if isinstance(event, Finished):
            self._finish_reason = event.finish_reason
            return b""
        return self._ended(event.index)

    def end(self, usage: Usage) -> bytes:
        # Its words went out as content before anybody could know that they refuse.
        reason = "content_filter" if self._finish_reason == "refusal" else _FINISH[self._finish_reason]
        chunks = self._chunk({}, reason)
        if self._shows_usage:
            counted = _encode(usage_object(usage))
            chunks += encode_event(b'%b,"choices":[],"usage":%b}' % (self._opening, counted))
        return chunks + _DONE

    def _begun(self, event: PartBegun) -> bytes:
        part = event.part
        self._kinds[event.index] = type(part)
        if isinstance(part, ToolCall):
            index = self._call_indices[event.index] = len(self._call_indices)
            return self._chunk({"tool_calls": [{"index": index, **_call(part)}]})
        if isinstance(part, Thinking):
            self._thoughts[event.index] = _Thought(part.redacted)
        return self._grown(PartGrew(event.index, part.text)) if part.text else b""

    def _grown(self, event: PartGrew) -> bytes:
        kind = self._kinds[event.index]
        if kind is ToolCall:
            call: dict[str, Any] = {"index": self._call_indices[event.index]}
            if event.text:
                call["function"] = {"arguments": event.text}
            if event.signature is not None:
                call["extra_content"] = _extra_content(event.signature)
            return self._chunk({"tool_calls": [call]})
        if kind is Thinking:
            thought = self._thoughts[event.index]
            thought.pieces.append(event.text)
            thought.signature = event.signature or thought.signature
        if not event.text:
            return b""
        return self._chunk({"content" if kind is Text else "reasoning_content": event.text})

    def _ended(self, index: int) -> bytes:
        """Return the whole block of thinking that was signed: only with its signature does its vendor take it back."""
        thought = self._thoughts.pop(index, None)
        if thought is None or (thought.signature is None and thought.redacted is None):
            return b""
        block = _thinking_block("".join(thought.pieces), thought.signature, thought.redacted)
        # OpenAI's SDKs put the entries of a list together by their index.
        number, self._blocks = self._blocks, self._blocks + 1
        return self._chunk({"thinking_blocks": [{"index": number, **block}]})

    def _chunk(self, delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
        choice = b'{"index":0,"delta":%b,"logprobs":null,"finish_reason":%b}' % (_encode(delta), _encode(finish_reason))
        return encode_event(b'%b,"choices":[%b]%b' % (self._opening, choice, self._usage_of_others))

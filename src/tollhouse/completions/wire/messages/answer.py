"""Answers in the format of the Messages API, whole and streamed."""

from typing import Any

import msgspec

from tollhouse.completions.wire.base import AnswerHead
from tollhouse.providers.anthropic.foreign import MARK, marked_call
from tollhouse.providers.conversation import (
    Finished,
    FinishReason,
    PartBegun,
    PartEnded,
    PartGrew,
    ProviderAnswer,
    StreamEvent,
    Text,
    Thinking,
    ToolCall,
)
from tollhouse.providers.sse import encode_event
from tollhouse.providers.usage import Usage

_STOP_REASONS: dict[FinishReason, str] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "content_filter": "refusal",
    "tool_calls": "tool_use",
    "refusal": "refusal",
    "other": "end_turn",
}

_encode = msgspec.json.Encoder().encode

_Object = dict[str, Any]


def encode_answer(answer: ProviderAnswer, usage: Usage, head: AnswerHead) -> bytes:
    """Return an answer's body."""
    parts = answer.parts or ((Text(answer.content),) if answer.content else ())
    message = _message(head, [block for part in parts for block in _blocks(part)], _usage(usage))
    return _encode(message | _end(answer.finish_reason, answer.stop_sequence))


def _message(head: AnswerHead, content: list[_Object], usage: _Object) -> _Object:
    return {
        "id": f"msg_{head.id.rpartition('_')[2]}",
        "type": "message",
        "role": "assistant",
        "model": head.model,
        "content": content,
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage,
    }


def _end(reason: FinishReason, stop_sequence: str | None) -> _Object:
    if reason == "stop" and stop_sequence is not None:
        return {"stop_reason": "stop_sequence", "stop_sequence": stop_sequence}
    return {"stop_reason": _STOP_REASONS[reason], "stop_sequence": None}


def _usage(usage: Usage) -> _Object:
    """Return a usage in Anthropic's counts: its input knows neither sounds nor pictures, its output is all output."""
    searches = {"web_search_requests": usage.web_searches, "web_fetch_requests": 0}
    return {
        "input_tokens": usage.input_tokens + usage.audio_input_tokens + usage.image_input_tokens,
        "cache_read_input_tokens": usage.cached_input_tokens,
        "cache_creation_input_tokens": usage.cache_write_tokens + usage.cache_write_1h_tokens,
        "cache_creation": {
            "ephemeral_5m_input_tokens": usage.cache_write_tokens,
            "ephemeral_1h_input_tokens": usage.cache_write_1h_tokens,
        },
        "output_tokens": usage.total_tokens - usage.all_input_tokens,
        "output_tokens_details": {"thinking_tokens": usage.reasoning_tokens},
        "server_tool_use": searches if usage.web_searches else None,
    }


def _blocks(part: Text | ToolCall | Thinking) -> list[_Object]:
    """Return a part as blocks; a tool call's signature and what is redacted beside a text take one of their own."""
    match part:
        case Text():
            return [{"type": "text", "text": part.text}] if part.text else []
        case ToolCall():
            called = {"type": "tool_use", "id": part.id, "name": part.name, "input": _input(part.arguments)}
            return [called] if part.signature is None else [called, _redacted(marked_call(part.id, part.signature))]
        case Thinking():
            redacted = [] if part.redacted is None else [_redacted(MARK + part.redacted)]
            if redacted and not part.text:
                return redacted
            signature = MARK + (part.signature or "")
            return [{"type": "thinking", "thinking": part.text, "signature": signature}, *redacted]


def _redacted(data: str) -> _Object:
    return {"type": "redacted_thinking", "data": data}


def _input(arguments: str) -> msgspec.Raw | _Object:
    """Return a call's arguments as they came, digit for digit; a model may also make up what is no object."""
    try:
        msgspec.json.decode(arguments, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return {}
    return msgspec.Raw(arguments.encode())


class _Block(msgspec.Struct):
    """A part that has begun and is not written to its end.

    Attributes:
        is_written: its beginning is; a text's is not before its first piece, since Anthropic takes no empty ones back.
        waiting: what came of it while another block was being written.
        signature: what it was signed with so far.
    """

    part: Text | ToolCall | Thinking
    is_written: bool = False
    waiting: list[PartGrew | PartEnded] = []
    signature: str = ""


class MessagesWriter:
    """Writes one streamed answer.

    Parts may overlap, while blocks come one after the other: what is known of a later part waits until the block
    before it is whole.
    """

    def __init__(self, head: AnswerHead) -> None:
        self._head = head
        self._blocks: dict[int, _Block] = {}
        self._index = -1
        self._finished = Finished("other")

    def begin(self) -> bytes:
        # How much was read is known at the end only, and told there.
        message = _message(self._head, [], _usage(Usage()))
        return _event("message_start", message=message)

    def write(self, event: StreamEvent) -> bytes:
        match event:
            case PartBegun():
                self._blocks[event.index] = block = _Block(event.part)
                if not isinstance(event.part, ToolCall) and event.part.text:
                    block.waiting.append(PartGrew(event.index, event.part.text))
                return self._catch_up() if len(self._blocks) == 1 else b""
            case PartGrew() | PartEnded():
                return self._go_on(event)
            case Finished():
                self._finished = event
                return b""

    def end(self, usage: Usage) -> bytes:
        # No well-behaved reader leaves a part open; a client could not tell such a block from a whole one.
        rest = b"".join(self.write(PartEnded(index)) for index in tuple(self._blocks))
        end = _end(self._finished.finish_reason, self._finished.stop_sequence)
        return rest + _event("message_delta", delta=end, usage=_usage(usage)) + _event("message_stop")

    def _go_on(self, event: PartGrew | PartEnded) -> bytes:
        block = self._blocks.get(event.index)
        if block is None:
            return b""
        if event.index != next(iter(self._blocks)):
            block.waiting.append(event)
            return b""
        if isinstance(event, PartGrew):
            return self._grow(block, event)
        del self._blocks[event.index]
        return self._stop(block) + self._catch_up()

    def _catch_up(self) -> bytes:
        """Write all that waited of the next part, and of those after it as far as they are whole by now."""
        written = b""
        while self._blocks:
            index, block = next(iter(self._blocks.items()))
            waiting, block.waiting = block.waiting, []
            written += b"" if isinstance(block.part, Text) else self._start(block)
            written += b"".join(self._grow(block, event) for event in waiting if isinstance(event, PartGrew))
            if not any(isinstance(event, PartEnded) for event in waiting):
                break
            del self._blocks[index]
            written += self._stop(block)
        return written

    def _start(self, block: _Block) -> bytes:
        block.is_written = True
        match block.part:
            case Text():
                begun: _Object = {"type": "text", "text": ""}
            case ToolCall():
                begun = {"type": "tool_use", "id": block.part.id, "name": block.part.name, "input": {}}
            case Thinking() if block.part.redacted is not None:
                begun = _redacted(MARK + block.part.redacted)
            case Thinking():
                begun = {"type": "thinking", "thinking": "", "signature": ""}
        return self._begun(begun)

    def _begun(self, block: _Object) -> bytes:
        self._index += 1
        return _event("content_block_start", index=self._index, content_block=block)

    def _grow(self, block: _Block, event: PartGrew) -> bytes:
        if event.signature is not None:
            block.signature = event.signature
        if not event.text:
            return b""
        match block.part:
            case Text():
                begun = b"" if block.is_written else self._start(block)
                return begun + self._delta({"type": "text_delta", "text": event.text})
            case ToolCall():
                return self._delta({"type": "input_json_delta", "partial_json": event.text})
            case Thinking() if block.part.redacted is None:
                return self._delta({"type": "thinking_delta", "thinking": event.text})
            case _:
                return b""

    def _stop(self, block: _Block) -> bytes:
        if not block.is_written:
            return b""
        part, signed, carrier = block.part, b"", b""
        if isinstance(part, Thinking) and part.redacted is None:
            signed = self._delta(
                {"type": "signature_delta", "signature": MARK + (block.signature or part.signature or "")}
            )
        stopped = self._stopped()
        if isinstance(part, ToolCall) and (signature := block.signature or part.signature):
            carrier = self._begun(_redacted(marked_call(part.id, signature))) + self._stopped()
        return signed + stopped + carrier

    def _stopped(self) -> bytes:
        return _event("content_block_stop", index=self._index)

    def _delta(self, delta: _Object) -> bytes:
        return _event("content_block_delta", index=self._index, delta=delta)


def _event(kind: str, **fields: Any) -> bytes:
    return encode_event(_encode({"type": kind, **fields}), kind)

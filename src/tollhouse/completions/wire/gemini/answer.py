"""From neutral answers and events to GenerateContentResponses."""

from typing import Any

import msgspec

from tollhouse.completions.wire.base import AnswerHead
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
from tollhouse.providers.gemini.foreign import written_redacted, written_signature
from tollhouse.providers.parsing import UNREADABLE
from tollhouse.providers.sse import encode_event
from tollhouse.providers.usage import Usage

_FINISH: dict[FinishReason, str] = {
    "stop": "STOP",
    "length": "MAX_TOKENS",
    "content_filter": "SAFETY",
    "tool_calls": "STOP",
    "refusal": "SAFETY",
    "other": "OTHER",
}
_encoder = msgspec.json.Encoder()
_arguments = msgspec.json.Decoder(dict[str, Any])


def answer(answer: ProviderAnswer, usage: Usage, head: AnswerHead) -> bytes:
    """Write a whole answer."""
    parts: list[dict[str, Any]] = []
    broken: ToolCall | None = None
    for part in answer.parts or ((Text(answer.content),) if answer.content else ()):
        match part:
            case Text():
                parts.append({"text": part.text})
            case Thinking():
                parts.append(_thought(part.text, part.signature, part.redacted))
            case ToolCall():
                written = _call(part)
                if written is None:
                    broken = part
                else:
                    parts.append(written)
    candidate = _candidate(parts) | _finish(answer.finish_reason, broken)
    return _encoder.encode(_response(candidate, head) | {"usageMetadata": _usage(usage)})


class GeminiStreamWriter:
    """Writes one streamed answer in chunks; a tool call is one whole part of one chunk."""

    def __init__(self, head: AnswerHead) -> None:
        self._head = head
        self._open: dict[int, Text | ToolCall | Thinking] = {}
        self._finish_reason: FinishReason = "other"
        self._broken: ToolCall | None = None

    def begin(self) -> bytes:
        return b""

    def write(self, event: StreamEvent) -> bytes:
        match event:
            case PartBegun(index, part):
                self._open[index] = part
                return self._begun(part)
            case PartGrew(index, text, signature):
                return self._grew(index, text, signature)
            case PartEnded(index):
                return self._ended(self._open.pop(index, None))
            case Finished(finish_reason):
                self._finish_reason = finish_reason
        return b""

    def end(self, usage: Usage) -> bytes:
        # As Google's own last chunk, this one has an empty text: its SDKs keep no turn with a chunk without content.
        candidate = _candidate([{"text": ""}]) | _finish(self._finish_reason, self._broken)
        last = _response(candidate, self._head) | {"usageMetadata": _usage(usage)}
        return encode_event(_encoder.encode(last))

    def _begun(self, part: Text | ToolCall | Thinking) -> bytes:
        if isinstance(part, Thinking):
            is_silent = not part.text and part.signature is None and part.redacted is None
            return b"" if is_silent else self._chunk(_thought(part.text, part.signature, part.redacted))
        return self._chunk({"text": part.text}) if isinstance(part, Text) and part.text else b""

    def _grew(self, index: int, text: str, signature: str | None) -> bytes:
        part = self._open.get(index)
        match part:
            case ToolCall():
                self._open[index] = msgspec.structs.replace(
                    part, arguments=part.arguments + text, signature=signature or part.signature
                )
                return b""
            case Thinking():
                return self._chunk(_thought(text, signature)) if text or signature is not None else b""
        return self._chunk({"text": text}) if text else b""

    def _ended(self, part: Text | ToolCall | Thinking | None) -> bytes:
        if not isinstance(part, ToolCall):
            return b""
        written = _call(part)
        if written is None:
            self._broken = part
            return b""
        return self._chunk(written)

    def _chunk(self, part: dict[str, Any]) -> bytes:
        return encode_event(_encoder.encode(_response(_candidate([part]), self._head)))


def _response(candidate: dict[str, Any], head: AnswerHead) -> dict[str, Any]:
    return {"candidates": [candidate], "modelVersion": head.model, "responseId": head.id}


def _candidate(parts: list[dict[str, Any]]) -> dict[str, Any]:
    content = {"parts": parts, "role": "model"} if parts else {"role": "model"}
    return {"content": content, "index": 0}


def _finish(reason: FinishReason, broken: ToolCall | None) -> dict[str, Any]:
    """Return why an answer ended; Google has a reason of its own for a call whose arguments are no JSON object."""
    if broken is None:
        return {"finishReason": _FINISH[reason]}
    return {
        "finishReason": "MALFORMED_FUNCTION_CALL",
        "finishMessage": f"Malformed function call: {broken.name}({broken.arguments})",
    }


def _thought(text: str, signature: str | None, redacted: str | None = None) -> dict[str, Any]:
    part: dict[str, Any] = {"thought": True}
    if redacted is not None:
        return {**part, "thoughtSignature": written_redacted(redacted)}
    if text:
        part["text"] = text
    if signature is not None:
        part["thoughtSignature"] = written_signature(signature)
    return part


def _call(call: ToolCall) -> dict[str, Any] | None:
    """Return a call's part; None where its arguments are no JSON object, which Google's format has no place for."""
    raw = (call.arguments.strip() or "{}").encode("utf-8", "replace")
    try:
        _arguments.decode(raw)
    except UNREADABLE:
        return None
    return {
        "functionCall": {"id": call.id, "name": call.name, "args": msgspec.Raw(raw)},
        # Also of a call that nobody has signed: Google's newer models take none back that says nothing of it.
        "thoughtSignature": written_signature(call.signature or ""),
    }


def _usage(usage: Usage) -> dict[str, Any]:
    """Return the usage as Google counts: what was cached is part of the prompt, and thoughts are no part of the answer.

    As in its own answers, details leave out what is zero.
    """
    made = usage.output_tokens + usage.audio_output_tokens + usage.image_output_tokens
    heard, seen = usage.audio_input_tokens, usage.image_input_tokens
    counts: dict[str, Any] = {
        "promptTokenCount": usage.all_input_tokens,
        "candidatesTokenCount": made,
        "totalTokenCount": usage.total_tokens,
        "promptTokensDetails": _details(usage.all_input_tokens - heard - seen, heard, seen),
    }
    if usage.cached_input_tokens:
        counts["cachedContentTokenCount"] = usage.cached_input_tokens
    if usage.reasoning_tokens:
        counts["thoughtsTokenCount"] = usage.reasoning_tokens
    if usage.audio_output_tokens or usage.image_output_tokens:
        counts["candidatesTokensDetails"] = _details(
            usage.output_tokens, usage.audio_output_tokens, usage.image_output_tokens
        )
    return counts


def _details(text: int, audio: int, image: int) -> list[dict[str, Any]]:
    counted = (("TEXT", text), ("AUDIO", audio), ("IMAGE", image))
    return [{"modality": modality, "tokenCount": count} for modality, count in counted if count]

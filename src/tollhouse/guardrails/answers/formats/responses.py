"""OpenAI's responses."""

from collections.abc import Callable, Sequence

from tollhouse.guardrails.answers.formats.base import Channel, Object, Slot, an_object, everything, objects
from tollhouse.guardrails.answers.text import TextKind

_DELTAS: dict[str, TextKind] = {
    "response.output_text": "content",
    "response.refusal": "content",
    "response.reasoning_summary_text": "other",
    "response.reasoning_text": "other",
    "response.function_call_arguments": "json",
    "response.mcp_call_arguments": "json",
    "response.custom_tool_call_input": "other",
    "response.code_interpreter_call_code": "other",
    "response.audio.transcript": "other",
}
_OVER = frozenset({"response.completed", "response.incomplete", "response.failed"})


class ResponsesFormat:
    """Deltas are followed by events that say the whole text again, and the last one says the whole answer."""

    def answers(self, body: Object) -> list[str]:
        texts = [
            part.get("text")
            for item in objects(body.get("output"))
            if item.get("type") == "message"
            for part in objects(item.get("content"))
            if part.get("type") == "output_text"
        ]
        return ["".join(text for text in texts if isinstance(text, str))]

    def slots(self, name: str, event: Object) -> list[Slot]:  # noqa: ARG002
        kind = str(event.get("type"))
        text_kind = _DELTAS.get(kind.removesuffix(".delta")) if kind.endswith(".delta") else None
        if text_kind is None or not isinstance(event.get("delta"), str):
            return []
        return [Slot(_channel(kind.removesuffix(".delta"), event), event, "delta", text_kind)]

    def ended(self, name: str, event: Object) -> Callable[[Channel], bool] | None:  # noqa: ARG002
        kind = str(event.get("type"))
        if kind in _OVER:
            return everything
        if kind == "response.output_item.done":
            return lambda channel: channel[2] == event.get("output_index")
        base = kind.removesuffix(".done")
        if base in _DELTAS and kind.endswith(".done"):
            over = _channel(base, event)
            return lambda channel: channel == over
        return None

    def tail(self, channel: Channel, template: Object, text: str) -> tuple[str, Object]:  # noqa: ARG002
        event = {**template, "delta": text}
        # It is as long as the text was not, to hide its length.
        event.pop("obfuscation", None)
        if "logprobs" in event:
            event["logprobs"] = []
        return str(event["type"]), event

    def is_bare(self, name: str, event: Object) -> bool:  # noqa: ARG002
        return True

    def wholes(self, event: Object) -> Sequence[tuple[Object, str]]:  # noqa: ARG002
        return ()

    def repeats(self, name: str, event: Object) -> bool:  # noqa: ARG002
        # What did not come in pieces comes once with its item, and again in the end.
        kind = str(event.get("type"))
        if kind == "response.output_item.done":
            return an_object(event.get("item")).get("type") in {"message", "function_call", "reasoning"}
        return kind.endswith(".done") or kind in _OVER


def _channel(base: str, event: Object) -> Channel:
    return (0, base, event.get("output_index"), event.get("content_index"), event.get("summary_index"))

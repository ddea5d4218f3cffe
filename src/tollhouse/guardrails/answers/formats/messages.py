"""Anthropic's messages."""

from collections.abc import Callable, Sequence

from tollhouse.guardrails.answers.formats.base import Channel, Object, Slot, an_object, everything, objects
from tollhouse.guardrails.answers.text import TextKind

_DELTAS: dict[str, TextKind] = {"text": "content", "thinking": "other", "partial_json": "json"}
_TYPES = {"text": "text_delta", "thinking": "thinking_delta", "partial_json": "input_json_delta"}


class MessagesFormat:
    """Blocks come one after the other; each is one text."""

    def answers(self, body: Object) -> list[str]:
        blocks = (block.get("text") for block in objects(body.get("content")) if block.get("type") == "text")
        return ["".join(text for text in blocks if isinstance(text, str))]

    def slots(self, name: str, event: Object) -> list[Slot]:  # noqa: ARG002
        kind, number = event.get("type"), event.get("index", 0)
        if kind == "content_block_delta":
            delta = an_object(event.get("delta"))
            keys = [key for key in _DELTAS if isinstance(delta.get(key), str)]
            return [Slot((0, key, number), delta, key, _DELTAS[key]) for key in keys]
        if kind == "content_block_start":
            block = an_object(event.get("content_block"))
            key = block.get("type")
            if key in ("text", "thinking") and isinstance(block.get(key), str):
                return [Slot((0, key, number), block, key, _DELTAS[key])]
        return []

    def ended(self, name: str, event: Object) -> Callable[[Channel], bool] | None:  # noqa: ARG002
        kind, number = event.get("type"), event.get("index", 0)
        if kind == "content_block_stop":
            return lambda channel: channel[2] == number
        return everything if kind in ("message_delta", "message_stop") else None

    def tail(self, channel: Channel, template: Object, text: str) -> tuple[str, Object]:  # noqa: ARG002
        key = str(channel[1])
        delta = {"type": _TYPES[key], key: text}
        return "content_block_delta", {"type": "content_block_delta", "index": channel[2], "delta": delta}

    def is_bare(self, name: str, event: Object) -> bool:  # noqa: ARG002
        return event.get("type") == "content_block_delta"

    def wholes(self, event: Object) -> Sequence[tuple[Object, str]]:  # noqa: ARG002
        return ()

    def repeats(self, name: str, event: Object) -> bool:  # noqa: ARG002
        return False

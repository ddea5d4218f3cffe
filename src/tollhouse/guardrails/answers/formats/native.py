"""Tollhouse's own: ``delta`` events, then ``usage``, then ``done`` with the whole answer."""

from collections.abc import Callable, Sequence

from tollhouse.guardrails.answers.formats.base import Channel, Object, Slot, everything


class NativeFormat:
    """One text."""

    def answers(self, body: Object) -> list[str]:
        content = body.get("content")
        return [content if isinstance(content, str) else ""]

    def slots(self, name: str, event: Object) -> list[Slot]:
        is_piece = name == "delta" and isinstance(event.get("content"), str)
        return [Slot((0,), event, "content", "content")] if is_piece else []

    def ended(self, name: str, event: Object) -> Callable[[Channel], bool] | None:  # noqa: ARG002
        return everything if name != "delta" else None

    def tail(self, channel: Channel, template: Object, text: str) -> tuple[str, Object]:  # noqa: ARG002
        return "delta", {"content": text}

    def is_bare(self, name: str, event: Object) -> bool:  # noqa: ARG002
        return name == "delta"

    def wholes(self, event: Object) -> Sequence[tuple[Object, str]]:  # noqa: ARG002
        return ()

    def repeats(self, name: str, event: Object) -> bool:  # noqa: ARG002
        return name == "done"

"""Google's generateContent."""

from collections.abc import Callable, Sequence

from tollhouse.guardrails.answers.formats.base import Channel, Object, Slot, an_object, objects

_CALLS = ("functionCall", "executableCode", "codeExecutionResult")


class GeminiFormat:
    """Chunks are answers themselves, with pieces of texts and whole calls."""

    def answers(self, body: Object) -> list[str]:
        return [
            "".join(str(part["text"]) for part in _parts(candidate) if _is_text(part) and not part.get("thought"))
            for candidate in objects(body.get("candidates"))
        ]

    def slots(self, name: str, event: Object) -> list[Slot]:  # noqa: ARG002
        return [
            Slot(_channel(candidate, part), part, "text", "other" if part.get("thought") else "content")
            for candidate in objects(event.get("candidates"))
            for part in _parts(candidate)
            if _is_text(part)
        ]

    def ended(self, name: str, event: Object) -> Callable[[Channel], bool] | None:  # noqa: ARG002
        over, goes_on = set(), {}
        for candidate in objects(event.get("candidates")):
            number, parts = candidate.get("index", 0), _parts(candidate)
            if candidate.get("finishReason"):
                over.add(number)
            elif parts:
                # What is said of another kind of part ends the text before it.
                goes_on[number] = _channel(candidate, parts[-1]) if _is_text(parts[-1]) else None
        if not over and not goes_on:
            return None
        return lambda channel: channel[0] in over or (channel[0] in goes_on and channel != goes_on[channel[0]])

    def tail(self, channel: Channel, template: Object, text: str) -> tuple[str, Object]:
        part: Object = {"text": text, "thought": True} if channel[1] is True else {"text": text}
        candidate = {"content": {"parts": [part], "role": "model"}, "index": channel[0]}
        event = {**template, "candidates": [candidate]}
        event.pop("usageMetadata", None)
        return "", event

    def is_bare(self, name: str, event: Object) -> bool:  # noqa: ARG002
        return all(
            not candidate.get("finishReason")
            and not candidate.get("groundingMetadata")
            and all(part.keys() <= {"text", "thought"} for part in _parts(candidate))
            for candidate in objects(event.get("candidates"))
        )

    def wholes(self, event: Object) -> Sequence[tuple[Object, str]]:
        return [
            (part, key)
            for candidate in objects(event.get("candidates"))
            for part in _parts(candidate)
            for key in _CALLS
            if key in part
        ]

    def repeats(self, name: str, event: Object) -> bool:  # noqa: ARG002
        return False


def _parts(candidate: Object) -> list[Object]:
    return list(objects(an_object(candidate.get("content")).get("parts")))


def _is_text(part: Object) -> bool:
    return isinstance(part.get("text"), str)


def _channel(candidate: Object, part: Object) -> Channel:
    return (candidate.get("index", 0), bool(part.get("thought")))

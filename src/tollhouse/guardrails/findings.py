"""What guardrails found, by kind and count: a value is never part of it."""

from collections.abc import Iterator
from typing import Literal

import msgspec

Stage = Literal["input", "output"]
GuardName = Literal[
    "hidden_characters", "input_length", "prompt_injection", "pii", "secrets", "response_schema", "markup"
]
Taken = Literal["flag", "redact", "block"]


class Finding(msgspec.Struct, frozen=True):
    """How often one kind of thing was found in one call.

    Attributes:
        stage: in what went to the model, or in what came back.
        guard: the guardrail's name in the configuration.
        kind: what it was, such as ``card``.
        action: what was done about it.
    """

    stage: Stage
    guard: GuardName
    kind: str
    action: Taken
    count: int


class Findings:
    """Counts findings of one stage of one call."""

    __slots__ = ("_counts", "_stage")

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._counts: dict[tuple[GuardName, str, Taken], int] = {}

    def add(self, guard: GuardName, kind: str, action: Taken, count: int = 1) -> None:
        key = (guard, kind, action)
        self._counts[key] = self._counts.get(key, 0) + count

    def __bool__(self) -> bool:
        return bool(self._counts)

    def __iter__(self) -> Iterator[Finding]:
        for (guard, kind, action), count in self._counts.items():
            yield Finding(self._stage, guard, kind, action, count)

    @property
    def blocking(self) -> str | None:
        """What the call is to be blocked for, in words for the caller; None if for nothing."""
        found: dict[GuardName, list[str]] = {}
        for (guard, kind, action), count in self._counts.items():
            if action == "block":
                found.setdefault(guard, []).append(f"{kind} ({count})")
        return "; ".join(f"{guard}: {', '.join(kinds)}" for guard, kinds in found.items()) or None

"""What the guarding of answers knows of a format."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any, Protocol

import msgspec

from tollhouse.guardrails.answers.text import TextKind

Object = dict[str, Any]
Channel = tuple[Hashable, ...]
"""Names one text of a streamed answer. Its first entry is the number of the alternative answer that it belongs to."""


class Slot(msgspec.Struct, frozen=True, gc=False):
    """A piece of one text within an event.

    Attributes:
        channel: which text.
        holder: what has the piece as its field ``key``.
        kind: what the text is.
    """

    channel: Channel
    holder: Object
    key: str
    kind: TextKind


class Format(Protocol):
    """One format. Implementations are pure; what is not as they expect it is passed over."""

    def answers(self, body: Object) -> list[str]:
        """Return what each alternative of a whole answer says, but for thinking and calls."""

    def slots(self, name: str, event: Object) -> list[Slot]:
        """Return the pieces of texts in an event of a stream.

        Args:
            name: what ``event:`` says.
            event: its data.
        """

    def ended(self, name: str, event: Object) -> Callable[[Channel], bool] | None:
        """Return what tells the texts that have ended before this event; None for none."""

    def tail(self, channel: Channel, template: Object, text: str) -> tuple[str, Object]:
        """Return the name and data of an event with a further piece of a text.

        Args:
            template: the event that had its first piece.
        """

    def is_bare(self, name: str, event: Object) -> bool:
        """Whether an event is nothing without the pieces of text in it."""

    def wholes(self, event: Object) -> Sequence[tuple[Object, str]]:
        """Return what an event with pieces of texts has besides that is whole: its holder and the field."""

    def repeats(self, name: str, event: Object) -> bool:
        """Whether an event says again what came in pieces before."""


def objects(value: Any) -> Iterator[Object]:
    """Yield the objects of what should be a list of them."""
    for each in value if isinstance(value, list) else ():
        if isinstance(each, dict):
            yield each


def an_object(value: Any) -> Object:
    """Return what should be an object; an empty one in its place."""
    return value if isinstance(value, dict) else {}


def everything(channel: Channel) -> bool:  # noqa: ARG001
    """Say that every text has ended."""
    return True

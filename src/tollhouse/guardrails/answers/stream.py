"""Guarding a streamed answer, event by event, in the client's own format."""

from typing import Any

import msgspec

from tollhouse.guardrails.answers.formats.base import Channel, Slot
from tollhouse.guardrails.answers.session import FORMATS, Session
from tollhouse.guardrails.answers.text import Chain
from tollhouse.providers.sse import EventParser, ServerSentEvent, encode_event

# What is given in is whole events that passed a bound before.
_MAX_EVENT_BYTES = 64 * 1024 * 1024
_NUMBER = "sequence_number"


class _Text(msgspec.Struct):
    """One text of the answer that goes on.

    Attributes:
        template: the event that had its first piece.
        pieces: what was passed on of it, where it is to be checked.
    """

    chain: Chain
    template: dict[str, Any]
    is_content: bool
    pieces: list[str] = []


class StreamGuard:
    """Guards one stream: what may be passed on comes out as soon as it may.

    Args:
        session: what is done.
        api: the name of the client's API.
    """

    def __init__(self, session: Session, api: str) -> None:
        self.session = session
        self._format = FORMATS[api]
        self._parser = EventParser(_MAX_EVENT_BYTES)
        self._open: dict[Channel, _Text] = {}
        self._said: dict[Any, list[str]] = {}
        # By how much the numbers of events have moved, for those that were left out or put in.
        self._shift = 0

    @property
    def blocked(self) -> str | None:
        """Why nothing more is passed on; None as long as that is not so."""
        return self.session.findings.blocking

    def feed(self, events: bytes) -> bytes:
        """Take whole events, and return what is passed on."""
        out = b""
        for event in self._parser.feed(events):
            if self.blocked is not None:
                break
            out += self._event(event)
        return out

    def end(self, finish_reason: str) -> bytes:
        """Return what was still held back, once the answer has come to its end; check the whole of it."""
        rest = b"".join(self._ended(channel, {}) for channel in tuple(self._open))
        if self.session.checks_schema and self.blocked is None:
            self.session.check(["".join(pieces) for pieces in self._said.values()] or [""], finish_reason)
        return rest

    def _event(self, event: ServerSentEvent) -> bytes:
        data = event.data.strip()
        if not data.startswith(b"{"):
            # A comment, or OpenAI's end.
            return b"".join(self._ended(channel, {}) for channel in tuple(self._open) if data) + event.raw
        tree = msgspec.json.decode(data)
        form = self._format
        slots = form.slots(event.name, tree)
        came = [slot.holder[slot.key] for slot in slots]
        for slot in slots:
            self._feed(slot, tree)
        out = b"" if self._is_blocked() else self._end(event.name, tree, slots)
        if self._is_blocked():
            return b""
        goes = [slot.holder[slot.key] for slot in slots]
        if any(came) and not any(goes) and form.is_bare(event.name, tree):
            self._shift -= 1
            return out
        changed = self._wholes(event.name, tree, slots)
        if self._is_blocked():
            return out
        if self._shift and isinstance(changed.get(_NUMBER), int):
            changed = {**changed, _NUMBER: changed[_NUMBER] + self._shift}
        if changed is tree and came == goes:
            return out + event.raw
        return out + encode_event(msgspec.json.encode(changed), event.name)

    def _is_blocked(self) -> bool:
        return self.blocked is not None

    def _feed(self, slot: Slot, tree: dict[str, Any]) -> None:
        text = self._open.get(slot.channel)
        if text is None:
            chain = self.session.chain(slot.kind)
            text = self._open[slot.channel] = _Text(chain, tree, is_content=slot.kind == "content")
        said = slot.holder[slot.key] = text.chain.feed(slot.holder[slot.key])
        self._say(slot.channel, text, said)

    def _say(self, channel: Channel, text: _Text, said: str) -> None:
        if text.is_content and self.session.checks_schema:
            self._said.setdefault(channel[0], []).append(said)

    def _end(self, name: str, tree: dict[str, Any], slots: list[Slot]) -> bytes:
        """Return what was held back of the texts that end here, but for what this event has a place for itself."""
        is_over = self._format.ended(name, tree)
        if is_over is None:
            return b""
        out = b""
        for channel in [channel for channel in self._open if is_over(channel)]:
            own = [slot for slot in slots if slot.channel == channel]
            if own:
                text = self._open.pop(channel)
                rest = text.chain.end()
                self._say(channel, text, rest)
                own[-1].holder[own[-1].key] += rest
            else:
                out += self._ended(channel, tree)
        return out

    def _ended(self, channel: Channel, tree: dict[str, Any]) -> bytes:
        text = self._open.pop(channel)
        rest = text.chain.end()
        self._say(channel, text, rest)
        if not rest or self.blocked is not None:
            return b""
        name, event = self._format.tail(channel, text.template, rest)
        if isinstance(tree.get(_NUMBER), int):
            event[_NUMBER] = tree[_NUMBER] + self._shift
            self._shift += 1
        return encode_event(msgspec.json.encode(event), name)

    def _wholes(self, name: str, tree: dict[str, Any], slots: list[Slot]) -> dict[str, Any]:
        """Return an event with what is whole in it guarded."""
        form, session = self._format, self.session
        if not slots:
            return session.whole(tree, counts=not form.repeats(name, tree))
        changed = False
        for holder, key in form.wholes(tree):
            new = session.whole({key: holder[key]})[key]
            changed = changed or new is not holder[key]
            holder[key] = new
        return session.tokens_dropped({**tree} if changed else tree)

"""Placeholders in the place of values, and back: ``[EMAIL_1]``."""

import re
from collections.abc import Iterable, Mapping

import msgspec

_WRITTEN = re.compile(r"\[([A-Z][A-Z0-9_]*)_([0-9]{1,9})\]")
_BEGUN = re.compile(r"\[(?:[A-Z][A-Z0-9_]*\]?)?")


class Vault:
    """The values of one call, which live as long as it does and are written nowhere.

    The same value has the same placeholder throughout the call. Numbers follow the order of appearance, so that the
    turns of a conversation that is sent again get the placeholders they had, and the provider's cache still fits.

    Args:
        texts: everything that goes to the model: what is written like a placeholder there is not to be taken for one.
        first: the number of the first placeholder of a kind.
    """

    def __init__(self, texts: Iterable[str], first: int = 1) -> None:
        self._first = first
        self._next: dict[str, int] = {}
        self._placeholders: dict[tuple[str, str], str] = {}
        self.values: dict[str, str] = {}
        self.longest = 0
        for text in texts:
            if "[" in text:
                for kind, number in _WRITTEN.findall(text):
                    self._next[kind] = max(self._next.get(kind, first), int(number) + 1)

    def placeholder(self, kind: str, value: str) -> str:
        """Return what stands for a value."""
        known = self._placeholders.get((kind, value))
        if known is None:
            name = kind.upper()
            number = self._next.get(name, self._first)
            self._next[name] = number + 1
            known = self._placeholders[kind, value] = f"[{name}_{number}]"
            self.values[known] = value
            self.longest = max(self.longest, len(known))
        return known


class Restorer:
    """Puts values back into a text that comes piece by piece.

    Held back is at most what may be the beginning of a placeholder.

    Args:
        values: what each placeholder becomes.
        longest: the length of the longest of them.
        is_json: the text is JSON, so that values are escaped.
    """

    def __init__(self, values: Mapping[str, str], longest: int, *, is_json: bool = False) -> None:
        self._values = {key: _escaped(value) for key, value in values.items()} if is_json else values
        self._longest = longest
        self._held = ""

    def feed(self, text: str) -> str:
        text = self._held + text
        self._held = ""
        if "[" not in text:
            return text
        open_at = text.rfind("[")
        tail = text[open_at:]
        if len(tail) < self._longest and _BEGUN.fullmatch(tail) and tail not in self._values:
            self._held, text = tail, text[:open_at]
        return self._restored(text)

    def end(self) -> str:
        held, self._held = self._held, ""
        return held

    def whole(self, text: str) -> str:
        return self._restored(text) if "[" in text else text

    def _restored(self, text: str) -> str:
        return _WRITTEN.sub(lambda match: self._values.get(match[0], match[0]), text)


def _escaped(value: str) -> str:
    return msgspec.json.encode(value)[1:-1].decode()

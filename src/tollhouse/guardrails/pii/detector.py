"""All kinds of personal data in a text, and where each stands."""

import re
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from operator import attrgetter

import msgspec

from tollhouse.config.patterns import compiled
from tollhouse.guardrails.pii.documents import Place, ibans_in, nins_in, passports_in
from tollhouse.guardrails.pii.numbers import LEAST_CARD_DIGITS, cards_in, phones_in

# An address is looked for by its sign, with what stands before it read backwards: few texts have many of those.
_AT = re.compile(r"[@\uff20][\w-]++(?:\.[\w-]++)+"), re.compile(r"[\w.%+'-]+")
# In an address of the web.
_ESCAPED_AT = re.compile(r"%40[\w-]++(?:\.[\w-]++)+"), re.compile(r"[\w.+'-]+")
_LONGEST_LOCAL = 128
# All kinds but e-mail addresses have six digits or more that stand close together: the others are looked for there
# only, with as much around it as the longest of them may have.
_CLUSTER = re.compile(r"[0-9](?:[^0-9]{0,3}[0-9]){5,}")
_CLUSTER_OF_ANY_SCRIPT = re.compile(r"\d(?:\D{0,3}\d){5,}")
_BEFORE, _BEHIND = 96, 64


_EMAIL_ALONE = frozenset({"email"})


class Span(msgspec.Struct, frozen=True, gc=False):
    """One find."""

    start: int
    end: int
    kind: str


class Detector:
    """Finds personal data.

    Args:
        kinds: which of the built-in kinds.
        regions: the countries of telephone numbers without a country code.
        own: the operator's patterns, by the name of their kind; they go before the built-in kinds.
    """

    def __init__(self, kinds: Iterable[str], regions: tuple[str, ...], own: Mapping[str, str]) -> None:
        self._kinds = frozenset(kinds)
        self._regions = regions
        self._own = [(name, compiled(pattern)) for name, pattern in own.items()]

    def spans(self, text: str, label: str = "") -> Sequence[Span]:
        """Return what is found, from the left, without overlaps.

        Args:
            text: where it is looked for.
            label: the name of the field that holds the text, where it has one.
        """
        found: list[Span] = []
        for name, pattern in self._own:
            _take(((m.start(), m.end()) for m in pattern.finditer(text) if m.end() > m.start()), name, found)
        kinds = self._kinds
        if "email" in kinds and ("@" in text or "\uff20" in text or "%40" in text):
            _take(_emails_in(text), "email", found)
        if kinds != _EMAIL_ALONE:
            for window, longest in _windows(text):
                self._take_numbers(text, window, longest, label, found)
        return found

    def _take_numbers(self, text: str, window: Place, longest: int, label: str, found: list[Span]) -> None:
        kinds = self._kinds
        if "iban" in kinds:
            _take(ibans_in(text, window), "iban", found)
        if "nin" in kinds:
            _take(nins_in(text, window), "nin", found)
        if "card" in kinds and longest >= LEAST_CARD_DIGITS:
            _take(cards_in(text, window), "card", found)
        if "passport" in kinds:
            _take(passports_in(text, window, label), "passport", found)
        if "phone" in kinds:
            _take(phones_in(text, window, self._regions), "phone", found)


def _windows(text: str) -> Iterable[tuple[Place, int]]:
    """Return the parts of a text that may hold numbers, and the length of each one's longest run of digits.

    They do not overlap.
    """
    windows: list[tuple[Place, int]] = []
    for match in (_CLUSTER if text.isascii() else _CLUSTER_OF_ANY_SCRIPT).finditer(text):
        start, end = match.span()
        longest = end - start
        start, end = max(0, start - _BEFORE), end + _BEHIND
        if windows and start <= windows[-1][0][1]:
            (start, _), before = windows.pop()
            longest = max(longest, before)
        windows.append(((start, end), longest))
    return windows


def _emails_in(text: str) -> Iterable[Place]:
    for at, local in (_AT, _ESCAPED_AT) if "%40" in text else (_AT,):
        before = 0
        for match in at.finditer(text):
            sign, end = match.span()
            # A quotation mark and what ends a sentence are no part of it, nor is the letter of an escaped line end.
            said = local.match(text[max(before, sign - _LONGEST_LOCAL) : sign][::-1])
            before = end
            # A version's number is no domain.
            if said is None or match[0].rpartition(".")[2].isdigit():
                continue
            start = sign - len(said[0].rstrip("'.-%"))
            if start and text[start - 1] == "\\" and text[start] in "nrt":
                start += 1
            if start < sign:
                yield start, end


def _take(places: Iterable[Place], kind: str, found: list[Span]) -> None:
    """Add what does not overlap with what was found before, in the order of the text."""
    for start, end in places:
        at = bisect_left(found, start, key=_start_of)
        is_free_before = at == 0 or found[at - 1].end <= start
        if is_free_before and (at == len(found) or found[at].start >= end):
            found.insert(at, Span(start, end, kind))


_start_of = attrgetter("start")

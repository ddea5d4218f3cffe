"""Card and telephone numbers, written with or without separators.

A run of digits may hold a number beside others ("2 cards: 4111 1111 1111 1111 1"), so that its groups are tried
together in every way that makes a number of the right length.
"""

import re
from collections.abc import Callable, Iterator
from functools import lru_cache

from tollhouse.guardrails.pii.documents import Place

_EndOf = Callable[[str, list[Place], int], int | None]
"""Returns the last group of the longest number that begins with a group of a text, if one does."""

_SEPARATORS = r"[ \t\u00a0\u2009\u202f.\-/_\u2010-\u2015]"
LEAST_CARD_DIGITS = 14
_CARD_RUN = re.compile(rf"\d(?<!\d\d)(?:{_SEPARATORS}{{0,2}}\d){{{LEAST_CARD_DIGITS - 1},}}")
_GROUP = re.compile(r"\d+")
_NO_DIGITS = re.compile(r"\D+")
# Twice a digit, as the sum of its own digits.
_DOUBLED = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)
_CARD_LENGTHS = range(LEAST_CARD_DIGITS, 20)
_FIRST_GROUP = 4
_MIDDLE_GROUPS = range(4, 7)
# Each issuer's first digits and lengths: those of Visa's that have 13 are long gone, and an EAN looks like them.
_ISSUED = re.compile(
    r"4(?:\d{15}|\d{18})"  # Visa
    r"|(?:5[1-5]\d\d|222[1-9]|22[3-9]\d|2[3-6]\d\d|27[01]\d|2720)\d{12}"  # Mastercard
    r"|3[47]\d{13}"  # American Express
    r"|3(?:0[0-5]|[689]\d)(?:\d{11}|\d{13,16})"  # Diners Club
    r"|35(?:2[89]|[3-8]\d)\d{12,15}"  # JCB
    r"|6\d{15,18}"  # Discover, UnionPay, RuPay, Verve, Maestro
    r"|5[06-8]\d{12,17}"  # Maestro, Verve
)

_PHONE_SEPARATORS = r"[ \t\u00a0\u2009\u202f().\-/\u2010-\u2015]"
_JOINED = "-."
# As in documents.py, what it stands after is told behind its first character.
_PHONE_RUN = re.compile(
    r"[+(\d](?:(?<![\w@].)|(?<=\\[nrt].))"
    rf"(?:(?<=\d)|(?<=\+){_PHONE_SEPARATORS}?\(?\d|(?<=\()\+?\d)(?:{_PHONE_SEPARATORS}{{0,3}}\d){{6,}}(?!\w)"
)
# What would be a number of countries whose numbers have eight digits.
_DATE = re.compile(r"(?:19|20)\d\d([-/.])(?:0[1-9]|1[0-2])\1(?:0[1-9]|[12]\d|3[01])(?!\d)")
_PHONE_DIGITS = range(7, 19)
_MOST_DIGITS_OF_PHONE = 15
_KNOWN = 4096
_MOST_CHECKS = 2_000


def cards_in(text: str, window: Place) -> Iterator[Place]:
    """Yield payment cards: an issuer's first digits and lengths, and Luhn's checksum (ISO/IEC 7812)."""
    for run in _CARD_RUN.finditer(text, *window):
        groups = [match.span() for match in _GROUP.finditer(text, *run.span())]
        yield from _joined(text, groups, _card_end)


def _joined(text: str, groups: list[Place], end_of: _EndOf) -> Iterator[Place]:
    """Yield what the groups of a run make, from the left, the longest first."""
    first = 0
    while first < len(groups):
        last = end_of(text, groups, first)
        if last is None:
            first += 1
            continue
        yield groups[first][0], groups[last][1]
        first = last + 1


def _card_end(text: str, groups: list[Place], first: int) -> int | None:
    """Return the last group of the longest card number that begins with a group."""
    start, end = groups[first]
    size = end - start
    if size != _FIRST_GROUP and size not in _CARD_LENGTHS:
        return None
    found, digits = None, ""
    for last in range(first, len(groups)):
        start, end = groups[last]
        if last > first and groups[last - 1][1] - groups[last - 1][0] not in _MIDDLE_GROUPS:
            break
        digits += text[start:end]
        if len(digits) >= _CARD_LENGTHS.stop:
            break
        if len(digits) in _CARD_LENGTHS and (last == first or size == _FIRST_GROUP) and _is_card(digits):
            found = last
    return found


def _is_card(digits: str) -> bool:
    digits = _in_ascii(digits)
    if not _ISSUED.fullmatch(digits):
        return False
    values = list(map(int, digits))
    return (sum(map(_DOUBLED.__getitem__, values[-2::-2])) + sum(values[-1::-2])) % 10 == 0


def _in_ascii(digits: str) -> str:
    """Return the digits of any script as 0 to 9."""
    return digits if digits.isascii() else "".join(str(int(digit)) for digit in digits)


def phones_in(text: str, window: Place, regions: tuple[str, ...]) -> Iterator[Place]:
    """Yield telephone numbers that are possible by their country's numbering plan.

    Args:
        text: what holds them.
        window: the part of it in which they are looked for.
        regions: the countries whose numbers are known without their code: with a leading 0 or brackets, in groups of
            three or more, or with the country's code but no plus.
    """
    checker = _Phones(regions)
    for run in _PHONE_RUN.finditer(text, *window):
        date = _DATE.match(text, *run.span())
        groups = [match.span() for match in _GROUP.finditer(text, date.end() if date else run.start(), run.end())]
        for start, end in _joined(text, groups, checker.end):
            yield _opened(text, start, end), end


def _opened(text: str, start: int, end: int) -> int:
    """Return where a number begins whose first group is known: with a plus before it, and a bracket that it closes."""
    unclosed = text.count(")", start, end) - text.count("(", start, end)
    while start and (text[start - 1] == "+" or (text[start - 1] == "(" and unclosed > 0)):
        start -= 1
        unclosed -= text[start] == "("
    return start


class _Phones:
    """Decides what is a number of one of some countries, or of any with its code."""

    def __init__(self, regions: tuple[str, ...]) -> None:
        self._regions = regions
        self._checks = 0

    def end(self, text: str, groups: list[Place], first: int) -> int | None:
        """Return the last group of the longest number that begins with a group."""
        found, count = None, 0
        if first and text[groups[first][0] - 1] in _JOINED:
            # It goes on with something longer, such as an ISBN.
            return None
        for last in range(first, len(groups)):
            size = groups[last][1] - groups[last][0]
            count += size
            # Numbers are written in groups of two digits and more, but for what comes first.
            if count >= _PHONE_DIGITS.stop or (last > first + 1 and size == 1):
                break
            if count not in _PHONE_DIGITS:
                continue
            end = groups[last][1]
            if self._is_phone(text[_opened(text, groups[first][0], end) : end], last - first + 1):
                found = last
        return found

    def _is_phone(self, text: str, groups: int) -> bool:
        digits = _in_ascii(_NO_DIGITS.sub("", text))
        if "+" in text[:2] or digits.startswith("00"):
            return self._is_valid("+" + digits.removeprefix("00"), None)
        looks_local = digits.startswith("0") or text.startswith("(") or groups >= 3
        return any(
            (looks_local and self._is_valid(digits, region))
            or (
                len(digits) <= _MOST_DIGITS_OF_PHONE
                and digits.startswith(_country_code(region))
                and self._is_valid("+" + digits, None)
            )
            for region in self._regions
        )

    def _is_valid(self, digits: str, region: str | None) -> bool:
        self._checks += 1
        # A text of numbers and nothing else must not hold everybody up: from here on, what looks like one is one.
        return self._checks > _MOST_CHECKS or _is_valid(digits, region)


@lru_cache(_KNOWN)
def _country_code(region: str) -> str:
    import phonenumbers

    return str(phonenumbers.country_code_for_region(region))


@lru_cache(_KNOWN)
def _is_valid(digits: str, region: str | None) -> bool:
    # Google's numbering plans; loaded once something looks like a number.
    import phonenumbers

    try:
        number = phonenumbers.parse(digits, region)
    except phonenumbers.NumberParseException:
        return False
    return bool(phonenumbers.is_valid_number(number))

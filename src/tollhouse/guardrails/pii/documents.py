"""Numbers of accounts and documents: IBAN, passport, Uganda's National Identification Number."""

import re
from collections.abc import Iterator
from functools import lru_cache

Place = tuple[int, int]
"""Where something stands: start and end."""

# What a number's first character stands after: no letter or digit, but for the letter of an escaped line end, in texts
# that quote JSON or code. It follows that character, since an expression that begins with one is found much faster.
_AFTER = r"(?:(?<![A-Za-z0-9].)|(?<=\\[nrt].))"
_IBAN = re.compile(r"[A-Za-z]" + _AFTER + r"[A-Za-z]\d{2}(?:[ \u00a0-]?[A-Za-z0-9]){11,30}", re.ASCII)
_MAY_BE_IBAN = re.compile(r"[0-9](?<=[A-Za-z]{2}[0-9])[0-9]")
_LENGTHS = re.compile(r"\d+(?=!)")
# All that two letters can be.
_COUNTRIES = 26 * 26
_SEPARATORS = " \u00a0-"
_ALNUM = re.compile(r"[A-Za-z0-9]")

_NIN = re.compile(r"[CARcar]" + _AFTER + r"[MFmf]\d{2}[0-9A-Za-z]{10}(?![A-Za-z0-9])", re.ASCII)
_LEAST_DIGITS_OF_NIN = 6

_PASSPORT_WORDS = ("passport", "pasipoti", "passeport", "reisepass")
_PASSPORT = re.compile(
    rf"(?:{'|'.join(_PASSPORT_WORDS)})[\W_]{{0,4}}"
    r"(?:(?:number|num|nr|no|is|was|id|of|the|my|holder)[\W_]{1,4}){0,4}"
    r"(?P<number>[A-Z]{0,3}\d{6,9}[A-Z]?)(?![A-Za-z0-9])",
    re.IGNORECASE | re.ASCII,
)
_NUMBER_ALONE = re.compile(r"[A-Z]{0,3}\d{6,9}[A-Z]?", re.IGNORECASE | re.ASCII)
# The machine-readable zone of ICAO 9303, part 4: names on the first line, numbers with check digits on the second.
_MRZ = re.compile(
    r"(?:P[A-Z<][A-Z<]{42}\s{1,4})?(?P<second>[A-Z0-9<]{9}\d[A-Z<]{3}\d{7}[MFX<]\d{7}[A-Z0-9<]{14}[\d<]\d)"
)
_WEIGHTS = (7, 3, 1)


def ibans_in(text: str, window: Place) -> Iterator[Place]:
    """Yield the IBANs of a text: their checksum is right (ISO 13616), and their form is their country's."""
    at, end = window
    if not _MAY_BE_IBAN.search(text, at, end):
        return
    while (match := _IBAN.search(text, at, end)) is not None:
        found = _iban_end(text, match)
        # What follows may be read as if it belonged to it, and hold another.
        at = found or match.start() + 1
        if found:
            yield match.start(), found


def _iban_end(text: str, match: re.Match[str]) -> int:
    length = _iban_length(match[0][:2].upper())
    if not length:
        return 0
    compact = ""
    for at in range(match.start(), match.end()):
        if text[at] in _SEPARATORS:
            continue
        compact += text[at]
        if len(compact) == length:
            is_word_end = not _ALNUM.match(text, at + 1)
            return at + 1 if is_word_end and _is_iban(compact.upper()) else 0
    return 0


@lru_cache(_COUNTRIES)
def _iban_length(country: str) -> int:
    """Return the length of a country's IBANs; 0 where it has none."""
    # The registry of stdnum; loaded once something looks like an IBAN.
    from stdnum import numdb

    _, told = numdb.get("iban").info(country)[0]
    form = told.get("bban")
    return 4 + sum(map(int, _LENGTHS.findall(form))) if form else 0


def _is_iban(compact: str) -> bool:
    turned = compact[4:] + compact[:4]
    if int("".join(str(int(each, 36)) for each in turned)) % 97 != 1:
        return False
    # Knows each country's form.
    from stdnum import iban

    return bool(iban.is_valid(compact))


def nins_in(text: str, window: Place) -> Iterator[Place]:
    """Yield Ugandan NINs, of 14 characters: the first tells the status, the second the sex, two the birth.

    The authority publishes no checksum.
    """
    for match in _NIN.finditer(text, *window):
        if sum(map(str.isdigit, match[0])) >= _LEAST_DIGITS_OF_NIN:
            yield match.span()


def passports_in(text: str, window: Place, label: str) -> Iterator[Place]:
    """Yield passport numbers beside a word that says so, and machine-readable zones whose check digits are right.

    A passport number alone looks like any order's.

    Args:
        label: the name of the field that holds the text, where it has one.
    """
    if label and "passport" in label.lower() and _NUMBER_ALONE.fullmatch(text.strip()):
        yield 0, len(text)
        return
    lowered = text[slice(*window)].lower()
    if any(word in lowered for word in _PASSPORT_WORDS):
        for match in _PASSPORT.finditer(text, *window):
            yield match.span("number")
    if "<" in text:
        for match in _MRZ.finditer(text, *window):
            if _is_mrz(match["second"]):
                yield match.span()


def _is_mrz(line: str) -> bool:
    composite = line[0:10] + line[13:20] + line[21:43]
    return all(
        _check_digit(part) == int(digit)
        for part, digit in (
            (line[0:9], line[9]),
            (line[13:19], line[19]),
            (line[21:27], line[27]),
            (composite, line[43]),
        )
    )


def _check_digit(part: str) -> int:
    values = (0 if each == "<" else int(each, 36) for each in part)
    return sum(value * _WEIGHTS[i % 3] for i, value in enumerate(values)) % 10

"""Unicode's normalisation forms, in time that grows with the text alone."""

import re
import unicodedata
from typing import Literal

Form = Literal["NFC", "NFKC"]

# UAX #15, section 13: no text of any language has more marks on one letter.
_MOST_MARKS = 30
_JOINER = "\u034f"
# Marks begin at U+0300, and are none of the Han characters and Hangul syllables.
_MAY_BE_MARKS = re.compile(f"[^\\x00-\u02ff\u3400-\u9fff\uac00-\ud7a3]{{{_MOST_MARKS + 1},}}")


def normalized(text: str, form: Form) -> str:
    """Return a text in a normalisation form: the same object where it is in it already."""
    if text.isascii():
        return text
    text = _stream_safe(text)
    return text if unicodedata.is_normalized(form, text) else unicodedata.normalize(form, text)


def _stream_safe(text: str) -> str:
    """Break up endless runs of marks, as UAX #15's Stream-Safe Text Process does.

    Marks are sorted by a method whose time grows with the square of their number, for which megabytes of them are
    hours.
    """
    return _MAY_BE_MARKS.sub(_with_joiners, text)


def _with_joiners(match: re.Match[str]) -> str:
    pieces: list[str] = []
    marks = 0
    for char in match[0]:
        marks = marks + 1 if unicodedata.combining(char) else 0
        if marks > _MOST_MARKS:
            pieces.append(_JOINER)
            marks = 1
        pieces.append(char)
    return "".join(pieces)

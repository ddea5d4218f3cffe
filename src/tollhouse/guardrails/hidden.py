"""Characters that nobody sees and a model reads: controls, turned writing, tags, and what has no width.

Kept are those that writing needs: line ends and tabs, the joiners of Indic and Persian words and of emoji, the marks of
direction (LRM, RLM), one variation selector after a character, and the tags of a flag's emoji.
"""

import re
from collections import Counter

_CONTROL = "\\x00-\\x08\\x0b\\x0e-\\x1f\\x7f-\\x84\\x86-\\x9f"
_BIDI = "\u202a-\u202e\u2066-\u2069"
_TAG = "\U000e0000-\U000e007f"
_INVISIBLE = "\u00ad\u034f\u115f\u1160\u17b4\u17b5\u180e\u200b\u2060-\u2065\u206a-\u206f\u3164\ufeff\uffa0\ufff9-\ufffb"
_SELECTORS = "\ufe00-\ufe0f\U000e0100-\U000e01ef"
_ANY = re.compile(f"[{_CONTROL}{_BIDI}{_TAG}{_INVISIBLE}]|[{_SELECTORS}]{{2}}")
_SORTED = re.compile(
    # England's flag and its like spell their region in tags, up to the tag that ends them.
    f"(?P<kept>\U0001f3f4[\U000e0030-\U000e0039\U000e0061-\U000e007a]{{1,6}}\U000e007f)"
    # Bytes are smuggled in runs of selectors, of which one at most means something.
    f"|(?P<control>[{_CONTROL}])|(?P<bidi>[{_BIDI}])|(?P<tag>[{_TAG}])|(?P<invisible>[{_INVISIBLE}])"
    f"|(?<=[{_SELECTORS}])(?P<selector>[{_SELECTORS}]+)"
)


# All that needs no second look: most texts have nothing else, and bytes are sorted out fastest.
_PLAIN = bytes({*b"\t\n\f\r", *range(0x20, 0x7F)})


def hidden_in(text: str) -> Counter[str]:
    """Return how many hidden characters a text has, by kind; runs of variation selectors count once."""
    if not has_hidden(text):
        return Counter()
    return Counter(str(match.lastgroup) for match in _SORTED.finditer(text) if match.lastgroup != "kept")


def has_hidden(text: str) -> bool:
    """Whether a text may have hidden characters, cheaply; False is certain."""
    rest = text.encode("utf-8", "surrogatepass").translate(None, _PLAIN)
    return bool(rest) and _ANY.search(rest.decode("utf-8", "replace")) is not None


def without_hidden(text: str) -> str:
    """Return a text without its hidden characters."""
    return _SORTED.sub(lambda match: match[0] if match.lastgroup == "kept" else "", text)


def may_hide(raw: bytes) -> bool:
    """Whether a request's JSON may have hidden characters, cheaply: False is certain, True is to be looked into."""
    if b"\\u" in raw:
        return True
    rest = raw.translate(None, _PLAIN)
    return bool(rest) and _ANY.search(rest.decode("utf-8", "replace")) is not None

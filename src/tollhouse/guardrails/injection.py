"""Well-known words of prompt injection. They show an attempt; their absence shows nothing."""

import re

from tollhouse.guardrails.normal import normalized

_W = r"[\W_]{1,4}"
_PATTERNS = {
    "override": (
        rf"(?:ignore|disregard|forget|override|bypass){_W}(?:(?:all|any|the|your|my|these|those|of|previous|prior|above"
        rf"|earlier|preceding|system|original|initial){_W}){{1,5}}"
        r"(?:instructions?|prompts?|rules?|directions?|guidelines?|directives?|messages?|context|programming)\b"
    ),
    "disclosure": (
        rf"(?:reveal|print|show|repeat|output|display|leak|tell){_W}(?:me{_W})?(?:all{_W})?(?:of{_W})?"
        rf"(?:your|the){_W}(?:(?:hidden|full|exact|entire|original|initial|secret|complete){_W}){{0,2}}"
        rf"(?:system{_W}(?:prompt|message|instructions?)|(?:initial|hidden){_W}(?:prompt|instructions?))\b"
    ),
    "role_play": (
        rf"(?:do{_W}anything{_W}now|(?:you{_W}are|act{_W}as|pretend{_W}to{_W}be|enter|enable){_W}(?:now{_W})?(?:in{_W})?"
        rf"(?:an?{_W})?(?:dan|jailbroken|unrestricted|unfiltered|developer{_W}mode|god{_W}mode|dan{_W}mode)"
        rf"|(?:you{_W}have|with){_W}no{_W}(?:restrictions|rules|guidelines|limitations|filters))\b"
    ),
    "template": (
        r"<\|(?:im_start|im_end|system|user|assistant|endoftext|eot_id|start_header_id)\|>"
        r"|\[/?inst\]|<</?sys>>|<(?:start|end)_of_turn>"
    ),
}
# Words without one of which a pattern cannot fit: to look for them costs a hundredth.
_TELLTALES = {
    "override": ("ignore", "disregard", "forget", "override", "bypass"),
    "disclosure": ("system", "hidden", "initial"),
    "role_play": ("anything", "jailbroken", "unrestricted", "unfiltered", " mode", "dan", " no "),
    "template": ("<|", "inst]", "sys>>", "_of_turn>"),
}
_COMPILED = [(kind, _TELLTALES[kind], re.compile(pattern)) for kind, pattern in _PATTERNS.items()]
_LETTERS = re.compile(r"[\u200b-\u200f\u00ad\u2060\ufeff]")


def injections_in(text: str) -> list[str]:
    """Return the kinds of injection that a text shows, one for each place.

    Letters are compared as they look (NFKC, without what has no width): fullwidth letters hide no words.
    """
    if not text.isascii():
        text = _LETTERS.sub("", normalized(text, "NFKC"))
    text = text.lower()
    found = []
    for kind, words, pattern in _COMPILED:
        if any(word in text for word in words):
            found += [kind for _ in pattern.finditer(text)]
    return found

"""Guardrails: what can be configured for all, and for one feature."""

import re
from typing import Annotated, Literal, get_args

from msgspec import Meta

from tollhouse.config.patterns import is_own_pattern, is_pattern_name
from tollhouse.config.rules import accepting, whole
from tollhouse.config.section import Section


def _are_regions(codes: tuple[str, ...]) -> bool:
    return len(codes) <= 20 and all(re.fullmatch("[A-Z]{2}", code) for code in codes)


GuardKeep = Literal["off", "flag", "redact", "block"]
GuardRefuse = Literal["off", "flag", "block"]
GuardRewrite = Literal["off", "flag", "redact"]
Normalization = Literal["off", "nfc", "nfkc"]
PiiKind = Literal["email", "phone", "card", "iban", "passport", "nin"]
PII_KINDS: tuple[PiiKind, ...] = get_args(PiiKind)

_KEEP = Meta(description="one of off, flag, redact, block")
_REFUSE = Meta(description="one of off, flag, block")
_REWRITE = Meta(description="one of off, flag, redact")
_FLAG = Meta(description="true or false")
_NORMALIZATION = Meta(description="one of off, nfc, nfkc")
_KINDS = Meta(description=f"a list of {', '.join(PII_KINDS)}")
_REGIONS = accepting(_are_regions, "a list of countries in two capital letters, such as UG, at most 20")
_CHARS = whole(1, 1_000_000_000)


class OwnPattern(Section, frozen=True):
    """Personal data of the operator's own kind; its name is what placeholders are called after."""

    pattern: Annotated[
        str, accepting(is_own_pattern, "a regular expression in RE2's syntax of 1 to 500 characters, not matching ''")
    ]


PatternName = Annotated[
    str, accepting(is_pattern_name, f"a name such as staff_number, and none of {', '.join(PII_KINDS)}")
]


class Guardrails(Section, frozen=True):
    """What is looked for in what goes to a model and comes back, and what is done about it."""

    normalize: Annotated[Normalization, _NORMALIZATION] = "off"
    """The Unicode normalisation form that texts are brought into before anything else."""
    hidden_characters: Annotated[GuardKeep, _KEEP] = "flag"
    """Control, bidi, tag and invisible characters; ``redact`` takes them out."""
    input_length: Annotated[GuardRefuse, _REFUSE] = "off"
    max_input_chars: Annotated[int, _CHARS] = 200_000
    """How many characters all the texts of a request may have together."""
    prompt_injection: Annotated[GuardRefuse, _REFUSE] = "off"
    pii: Annotated[GuardKeep, _KEEP] = "off"
    """Personal data; ``redact`` puts placeholders in its place before a provider sees it."""
    pii_kinds: Annotated[tuple[PiiKind, ...], _KINDS] = PII_KINDS
    phone_regions: Annotated[tuple[str, ...], _REGIONS] = ("UG",)
    """The countries whose telephone numbers are known without their country code."""
    patterns: dict[PatternName, OwnPattern] = {}
    restore: Annotated[bool, _FLAG] = True
    """Whether the answer's placeholders become what they stand for."""
    secrets: Annotated[GuardKeep, _KEEP] = "off"
    """API keys, private keys and JWTs in answers."""
    response_schema: Annotated[GuardRefuse, _REFUSE] = "off"
    """Whether an answer follows the JSON Schema that the request has."""
    markup: Annotated[GuardRewrite, _REWRITE] = "off"
    """Markdown and HTML in answers; ``redact`` leaves plain text."""


class FeatureGuardrails(Section, frozen=True):
    """A feature's own guardrails; what it leaves out is as for all."""

    normalize: Annotated[Normalization, _NORMALIZATION] | None = None
    hidden_characters: Annotated[GuardKeep, _KEEP] | None = None
    input_length: Annotated[GuardRefuse, _REFUSE] | None = None
    max_input_chars: Annotated[int, _CHARS] | None = None
    prompt_injection: Annotated[GuardRefuse, _REFUSE] | None = None
    pii: Annotated[GuardKeep, _KEEP] | None = None
    pii_kinds: Annotated[tuple[PiiKind, ...], _KINDS] | None = None
    phone_regions: Annotated[tuple[str, ...], _REGIONS] | None = None
    patterns: dict[PatternName, OwnPattern] = {}
    """They join those for all, or take their place under the same name."""
    restore: Annotated[bool, _FLAG] | None = None
    secrets: Annotated[GuardKeep, _KEEP] | None = None
    response_schema: Annotated[GuardRefuse, _REFUSE] | None = None
    markup: Annotated[GuardRewrite, _REWRITE] | None = None


class Feature(Section, frozen=True):
    """What is particular to calls of one feature."""

    guardrails: FeatureGuardrails = FeatureGuardrails()

"""What is done to a request before anything else is decided about it."""

import random
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from tollhouse.config import Feature, Guardrails
from tollhouse.guardrails.findings import Findings
from tollhouse.guardrails.hidden import has_hidden, hidden_in, may_hide, without_hidden
from tollhouse.guardrails.normal import Form, normalized
from tollhouse.guardrails.placeholders import Vault
from tollhouse.guardrails.policy import policies
from tollhouse.guardrails.walk import Role, rewritten

if TYPE_CHECKING:
    from tollhouse.guardrails.pii.detector import Detector, Span

_FORMS: dict[str, Form] = {"nfc": "NFC", "nfkc": "NFKC"}
# Fields of requests whose earlier turns the provider keeps.
_KEPT_TURNS = ("previous_response_id", "conversation")
_MOST_FIRST_NUMBER = 900_000_000


class Inspected(msgspec.Struct, frozen=True):
    """A request after its inspection.

    Attributes:
        body: what is to be sent; the same object where nothing was rewritten.
        vault: what placeholders stand for; None where there are none.
    """

    body: dict[str, Any]
    findings: Findings
    vault: Vault | None = None


class Guard:
    """The guardrails of a feature's calls, ready for use.

    Attributes:
        policy: as configured.
        guards_answers: answers are looked into whatever the request holds.
    """

    def __init__(self, policy: Guardrails) -> None:
        self.policy = policy
        self._form = _FORMS.get(policy.normalize)
        self._detector = None if policy.pii == "off" else _detector(policy)
        self.guards_answers = not policy.secrets == policy.markup == "off"
        self._only_looks_for_hidden = (
            not self.guards_answers
            and policy.response_schema == "off"
            and self._form is None
            and self._detector is None
            and policy.input_length == "off"
            and policy.prompt_injection == "off"
        )
        self._is_idle = self._only_looks_for_hidden and policy.hidden_characters == "off"

    def passes(self, raw: bytes) -> bool:
        """Whether there is certainly nothing to do about a request, by its JSON: what most calls are done with."""
        if self._is_idle:
            return True
        return self._only_looks_for_hidden and not may_hide(raw)

    def passes_texts(self, texts: Iterable[str]) -> bool:
        """Whether there is certainly nothing to do about a request, by its texts."""
        if self._is_idle:
            return True
        return self._only_looks_for_hidden and not any(map(has_hidden, texts))

    def inspect(self, body: dict[str, Any]) -> Inspected:
        """Look into a request, and rewrite what is to be rewritten.

        Raises:
            InvalidRequest: it is nested too deeply.
        """
        return _Inspection(self.policy, self._form, self._detector).run(body)


def _detector(policy: Guardrails) -> "Detector":
    # Patterns take their time to compile: only where they are wanted.
    from tollhouse.guardrails.pii.detector import Detector

    patterns = {name: own.pattern for name, own in policy.patterns.items()}
    return Detector(policy.pii_kinds, policy.phone_regions, patterns)


class FeatureGuards:
    """The guards of all features."""

    def __init__(self, default: Guardrails, features: Mapping[str, Feature]) -> None:
        self._default = Guard(default)
        self._by_feature = {slug: Guard(policy) for slug, policy in policies(default, features).items()}

    def of(self, feature_slug: str | None) -> Guard:
        """Return the guard of a feature's calls."""
        return self._by_feature.get(feature_slug or "", self._default)


def _first_number(body: dict[str, Any]) -> int:
    """Return what placeholders are numbered from.

    Where the provider keeps the turns before, their placeholders are not seen here. One of them must not be taken for
    another value's: numbers that nobody has used before keep them apart.
    """
    turns = body.get("input")
    items = turns if isinstance(turns, list) else ()
    is_continued = any(body.get(key) for key in _KEPT_TURNS) or any(
        isinstance(item, dict) and item.get("type") == "item_reference" for item in items
    )
    return random.randrange(1_000, _MOST_FIRST_NUMBER) if is_continued else 1  # noqa: S311 - a number is no secret


class _Inspection:
    """One request's."""

    def __init__(self, policy: Guardrails, form: Form | None, detector: "Detector | None") -> None:
        self._policy = policy
        self._form = form
        self._detector = detector
        self._findings = Findings("input")
        self._chars = 0
        self._texts: list[str] = []
        self._spans: dict[tuple[str, str], list[Span]] = {}
        self._vault: Vault | None = None

    def run(self, body: dict[str, Any]) -> Inspected:
        body = rewritten(body, self._look)
        policy, findings = self._policy, self._findings
        if policy.input_length != "off" and self._chars > policy.max_input_chars:
            findings.add("input_length", "characters", policy.input_length, self._chars)
        if self._spans and policy.pii == "redact" and findings.blocking is None:
            self._vault = Vault(self._texts, _first_number(body))
            body = rewritten(body, self._redact)
        return Inspected(body, findings, self._vault)

    def _look(self, text: str, role: Role, label: str) -> str:
        """Take note of what a text holds; return it cleaned."""
        policy = self._policy
        if self._form is not None:
            text = normalized(text, self._form)
        if policy.hidden_characters != "off":
            text = self._without_hidden(text)
        self._chars += len(text)
        if self._chars > policy.max_input_chars and policy.input_length == "block":
            # It is refused whatever else it holds: what takes longest is spared.
            return text
        if policy.prompt_injection != "off" and role == "user":
            from tollhouse.guardrails.injection import injections_in

            for kind in injections_in(text):
                self._findings.add("prompt_injection", kind, policy.prompt_injection)
        if self._detector is not None:
            self._texts.append(text)
            if spans := self._detector.spans(text, label):
                self._spans[text, label] = list(spans)
                for span in spans:
                    assert policy.pii != "off", "it has a detector"
                    self._findings.add("pii", span.kind, policy.pii)
        return text

    def _without_hidden(self, text: str) -> str:
        action = self._policy.hidden_characters
        found = hidden_in(text)
        if not found or action == "off":
            return text
        for kind, count in found.items():
            self._findings.add("hidden_characters", kind, action, count)
        return without_hidden(text) if action == "redact" else text

    def _redact(self, text: str, role: Role, label: str) -> str:  # noqa: ARG002
        spans = self._spans.get((text, label))
        if spans is None:
            return text
        assert self._vault is not None, "it is made before anything is put into it"
        pieces: list[str] = []
        end = 0
        for span in spans:
            pieces += (text[end : span.start], self._vault.placeholder(span.kind, text[span.start : span.end]))
            end = span.end
        pieces.append(text[end:])
        return "".join(pieces)

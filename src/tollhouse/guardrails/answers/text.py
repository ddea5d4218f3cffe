"""What one text of an answer goes through, piece by piece: secrets out, markup off, values back in."""

from typing import Literal, Protocol

from tollhouse.config import Guardrails
from tollhouse.guardrails.findings import Findings
from tollhouse.guardrails.placeholders import Restorer, Vault

TextKind = Literal["content", "json", "other"]
"""What an answer says; a call's arguments, or an answer that was asked for as JSON; thinking and the like."""

# Private characters of the last plane stand for values while markup is taken off: an address has underscores too.
_FIRST_STAND_IN = 0x100000
_MOST_STAND_INS = 0xFFFD


class TextFilter(Protocol):
    """Takes a text piece by piece. What comes out does not depend on how it was cut."""

    def feed(self, text: str) -> str:
        """Return what can be passed on now."""

    def end(self) -> str:
        """Return what was held back."""

    def whole(self, text: str) -> str:
        """Return what a whole text becomes."""


class _Observed:
    """Passes a text on as it is, and has a filter look at it."""

    def __init__(self, observer: TextFilter) -> None:
        self._observer = observer

    def feed(self, text: str) -> str:
        self._observer.feed(text)
        return text

    def end(self) -> str:
        self._observer.end()
        return ""

    def whole(self, text: str) -> str:
        self._observer.whole(text)
        return text


class _Replaced:
    """Puts values in the place of their stand-ins."""

    def __init__(self, values: dict[int, str]) -> None:
        self._values = values

    def feed(self, text: str) -> str:
        return text.translate(self._values)

    def end(self) -> str:
        return ""

    whole = feed


class Chain:
    """Filters, one after the other."""

    def __init__(self, filters: list[TextFilter]) -> None:
        self._filters = filters

    def feed(self, text: str) -> str:
        for each in self._filters:
            text = each.feed(text)
        return text

    def end(self) -> str:
        text = ""
        for each in self._filters:
            text = (each.feed(text) if text else "") + each.end()
        return text

    def whole(self, text: str) -> str:
        for each in self._filters:
            text = each.whole(text)
        return text


def chain(policy: Guardrails, vault: Vault | None, findings: Findings, kind: TextKind) -> Chain:
    """Return the filters of one text.

    Args:
        policy: what is to be done.
        vault: the values that are put back, if any are.
        findings: what is found is counted there.
        kind: what the text is.
    """
    filters: list[TextFilter] = []
    secrets, markup = policy.secrets, policy.markup
    if secrets != "off":
        # Patterns take their time to compile: only where they are wanted.
        from tollhouse.guardrails.answers.secrets import SecretFilter

        out = SecretFilter(lambda name: findings.add("secrets", name, secrets), is_json=kind == "json")
        filters.append(_Observed(out) if secrets == "flag" else out)
    values = vault.values if vault is not None and policy.restore else {}
    if markup == "off" or kind != "content":
        if values and vault is not None:
            filters.append(Restorer(values, vault.longest, is_json=kind == "json"))
        return Chain(filters)
    from tollhouse.guardrails.answers.markup import MarkupFilter

    plain = MarkupFilter(lambda: findings.add("markup", "line", markup))
    if not values or vault is None or len(values) > _MOST_STAND_INS:
        filters.append(_Observed(plain) if markup == "flag" else plain)
        return Chain(filters)
    stand_ins = {name: chr(_FIRST_STAND_IN + i) for i, name in enumerate(values)}
    filters.append(Restorer(stand_ins, vault.longest))
    filters.append(_Observed(plain) if markup == "flag" else plain)
    filters.append(_Replaced({ord(stand_ins[name]): value for name, value in values.items()}))
    return Chain(filters)

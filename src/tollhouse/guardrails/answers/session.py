"""The guarding of one attempt's answer."""

from typing import Any

import msgspec

from tollhouse.config import Guardrails
from tollhouse.guardrails.answers.formats.base import Format
from tollhouse.guardrails.answers.formats.chat import ChatFormat
from tollhouse.guardrails.answers.formats.gemini import GeminiFormat
from tollhouse.guardrails.answers.formats.messages import MessagesFormat
from tollhouse.guardrails.answers.formats.native import NativeFormat
from tollhouse.guardrails.answers.formats.responses import ResponsesFormat
from tollhouse.guardrails.answers.schema import Validator, problem_of
from tollhouse.guardrails.answers.text import Chain, TextKind, chain
from tollhouse.guardrails.findings import Findings
from tollhouse.guardrails.placeholders import Vault
from tollhouse.guardrails.walk import Role, rewritten

FORMATS: dict[str, Format] = {
    "native": NativeFormat(),
    "chat": ChatFormat(),
    "messages": MessagesFormat(),
    "responses": ResponsesFormat(),
    "gemini": GeminiFormat(),
}
"""By the name of the API. Embeddings say nothing."""

# Fields whose text is what the answer says.
_CONTENT = frozenset({"content", "text", "refusal"})
# Tokens one by one, in which a secret stands as well.
_TOKENS = frozenset({"logprobs", "logprobsResult"})


class Session:
    """What is done to one answer, and what was found in it.

    Args:
        policy: what is to be done.
        vault: the values that are put back, if any are.
        schema: what the answer has to follow, if that is checked.
        is_json: the answer was asked for as JSON.
    """

    def __init__(self, policy: Guardrails, vault: Vault | None, schema: Validator | None, *, is_json: bool) -> None:
        self.findings = Findings("output")
        self._policy = policy
        self._vault = vault
        self._schema = schema
        self._is_json = is_json
        self._drops_tokens = policy.secrets in {"redact", "block"}

    @property
    def checks_schema(self) -> bool:
        return self._schema is not None

    def chain(self, kind: TextKind, *, counts: bool = True) -> Chain:
        """Return the filters of one text.

        Args:
            counts: False for a text that was counted before.
        """
        if kind == "content" and self._is_json:
            kind = "json"
        return chain(self._policy, self._vault, self.findings if counts else Findings("output"), kind)

    def whole(self, tree: dict[str, Any], *, counts: bool = True) -> dict[str, Any]:
        """Return an answer, or a part of one, that is whole: the same object where nothing has changed."""

        def visit(text: str, role: Role, label: str) -> str:  # noqa: ARG001
            if not text:
                return text
            new = self.chain("content" if label in _CONTENT else "other", counts=counts).whole(text)
            return text if new == text else new

        changed = rewritten(tree, visit)
        return self.tokens_dropped(changed)

    def tokens_dropped(self, tree: dict[str, Any]) -> dict[str, Any]:
        """Return an answer without its single tokens where secrets are taken out of its text."""
        if not self._drops_tokens:
            return tree
        dropped: dict[str, Any] = _without_tokens(tree)
        return dropped

    def body(self, body: bytes, api: str, finish_reason: str) -> bytes:
        """Return a whole answer's body."""
        form = FORMATS[api]
        tree = msgspec.json.decode(body)
        if not isinstance(tree, dict):
            return body
        changed = self.whole(tree)
        if self._schema is not None:
            self.check(form.answers(changed), finish_reason)
        return body if changed is tree else msgspec.json.encode(changed)

    def check(self, answers: list[str], finish_reason: str) -> None:
        """Check what was said by the schema, unless the model did not come to say it."""
        action = self._policy.response_schema
        if self._schema is None or action == "off" or finish_reason in {"tool_calls", "refusal", "content_filter"}:
            return
        for text in answers:
            problem = problem_of(text, self._schema)
            if problem is not None:
                self.findings.add("response_schema", problem, action)


def _without_tokens(value: Any) -> Any:
    """Return JSON without the tokens that an answer was made of; the same object where it has none."""
    if isinstance(value, dict):
        pairs = [(key, _emptied(each) if key in _TOKENS else _without_tokens(each)) for key, each in value.items()]
        return value if all(value[key] is each for key, each in pairs) else dict(pairs)
    if isinstance(value, list):
        items = [_without_tokens(each) for each in value]
        return value if all(a is b for a, b in zip(items, value, strict=True)) else items
    return value


def _emptied(tokens: Any) -> Any:
    return tokens if not tokens else [] if isinstance(tokens, list) else None

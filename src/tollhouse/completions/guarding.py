"""Guardrails in a call: its request before it is weighed, and its answer before it is sent."""

from typing import Any

import msgspec

from tollhouse.completions.wire.gemini.fields import named
from tollhouse.completions.wire.gemini.schema import json_schema
from tollhouse.config import Guardrails
from tollhouse.errors import GuardrailBlocked, InvalidRequest
from tollhouse.guardrails.answers.schema import Validator, validator
from tollhouse.guardrails.answers.session import FORMATS, Session
from tollhouse.guardrails.answers.stream import StreamGuard
from tollhouse.guardrails.findings import Findings
from tollhouse.guardrails.inspection import Guard, Inspected
from tollhouse.guardrails.placeholders import Vault

_ANY_OBJECT: dict[str, Any] = {"type": "object"}
# What no answer begins with, in any format: kept for an idempotency key, it is told again as the refusal that it is.
_REFUSAL = b"\0tollhouse-blocked\0"


class Guarded(msgspec.Struct, frozen=True):
    """What guardrails have found in a call's request, and are to do with its answer.

    Attributes:
        api: the name of the client's API.
        blocked: what the call is refused with.
        schema: what the answer has to follow, where that is checked.
        is_json: the answer was asked for as JSON.
    """

    policy: Guardrails
    api: str
    findings: Findings
    vault: Vault | None
    blocked: GuardrailBlocked | None
    schema: Validator | None
    is_json: bool
    guards_answer: bool

    def session(self) -> Session:
        """Return what guards the answer of one attempt."""
        return Session(self.policy, self.vault, self.schema, is_json=self.is_json)

    def stream(self) -> StreamGuard | None:
        """Return what guards the streamed answer of one attempt; None where nothing is to be done."""
        return StreamGuard(self.session(), self.api) if self.guards_answer else None


def guarded(guard: Guard, api: str, body: dict[str, Any], inspected: Inspected) -> Guarded | None:
    """Return what guardrails have to do with a call; None where that is nothing.

    Args:
        guard: its feature's.
        api: the name of the client's API.
        body: the request as it came.
        inspected: the request after its inspection.

    Raises:
        InvalidRequest: the answer is to be held to a schema that cannot be checked.
    """
    policy, findings = guard.policy, inspected.findings
    vault = inspected.vault if policy.restore else None
    looks = api in FORMATS and (guard.guards_answers or vault is not None or policy.response_schema != "off")
    schema, is_json = _asked_for(api, body) if looks else (None, False)
    checked = None
    if schema is not None and policy.response_schema != "off":
        try:
            checked = validator(schema)
        except InvalidRequest:
            if policy.response_schema == "block":
                raise
            findings.add("response_schema", "not_checked", "flag")
    blocking = findings.blocking
    guards_answer = api in FORMATS and (guard.guards_answers or vault is not None or checked is not None)
    if not findings and not guards_answer:
        return None
    blocked = None if blocking is None else GuardrailBlocked(f"the request was blocked by a guardrail: {blocking}")
    return Guarded(policy, api, findings, vault, blocked, checked, is_json, guards_answer)


def blocked_by(session: Session) -> GuardrailBlocked | None:
    """Return what the caller gets in the place of an answer; None where it may pass."""
    blocking = session.findings.blocking
    if blocking is None:
        return None
    return GuardrailBlocked(
        f"the answer was blocked by a guardrail, and is billed as the provider bills it: {blocking}"
    )


def kept_refusal(blocked: GuardrailBlocked) -> bytes:
    """Return what is kept for an idempotency key in the place of an answer."""
    return _REFUSAL + blocked.message.encode()


def raise_kept_refusal(kept: bytes) -> None:
    """Raise the refusal that was kept in the place of an answer, if it was one."""
    if kept.startswith(_REFUSAL):
        raise GuardrailBlocked(kept.removeprefix(_REFUSAL).decode())


def _asked_for(api: str, body: dict[str, Any]) -> tuple[dict[str, Any] | None, bool]:
    """Return the schema of the answer that a request asks for, and whether it asks for JSON at all."""
    match api:
        case "native":
            schema = body.get("response_schema")
            return schema, schema is not None
        case "chat":
            return _openai_format(body.get("response_format"), nested="json_schema")
        case "responses":
            text = body.get("text")
            return _openai_format(text.get("format") if isinstance(text, dict) else None, nested=None)
        case "messages":
            config = body.get("output_config")
            described = (config.get("format") if isinstance(config, dict) else None) or body.get("output_format")
            schema = described.get("schema") if isinstance(described, dict) else None
            return (schema, True) if isinstance(schema, dict) else (None, False)
    return _gemini_format(body)


def _openai_format(described: Any, *, nested: str | None) -> tuple[dict[str, Any] | None, bool]:
    if not isinstance(described, dict):
        return None, False
    if described.get("type") == "json_object":
        return _ANY_OBJECT, True
    within = described.get(nested) if nested else described
    schema = within.get("schema") if isinstance(within, dict) else None
    return (schema, True) if described.get("type") == "json_schema" and isinstance(schema, dict) else (None, False)


def _gemini_format(body: dict[str, Any]) -> tuple[dict[str, Any] | None, bool]:
    config = named(body, "").get("generationConfig")
    fields = named(config, "generationConfig") if isinstance(config, dict) else {}
    if fields.get("responseMimeType") != "application/json":
        return None, False
    if isinstance(fields.get("responseJsonSchema"), dict):
        return fields["responseJsonSchema"], True
    if isinstance(fields.get("responseSchema"), dict):
        return json_schema(fields["responseSchema"], "generationConfig.responseSchema"), True
    return {}, True

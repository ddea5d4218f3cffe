"""A call, once its caller is known and its body checked: everything the pipeline needs, decided up front."""

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
from cryptography.exceptions import InvalidTag

from tollhouse.budgets.model import Reservation
from tollhouse.completions.decoding import conversation, stop_sequences
from tollhouse.completions.estimate import max_input_tokens
from tollhouse.completions.model import CompleteBody
from tollhouse.completions.models import Candidate, Models, PricedCandidate
from tollhouse.errors import Forbidden, InternalError, InvalidRequest, TenantForbidden
from tollhouse.gate.admission import Replay
from tollhouse.idempotency.model import Claim, claim
from tollhouse.keys.model import Principal
from tollhouse.kit.clock import Clock, billing_period, utc_text
from tollhouse.kit.ids import id_text
from tollhouse.pricing.model import ceiling_nano_usd
from tollhouse.providers.base import Message, ProviderRequest

MAX_IDEMPOTENCY_KEY = 255
_MS_PER_HOUR = 3_600_000


class Answer(msgspec.Struct, frozen=True, gc=False):
    """The bytes that go to the caller.

    Attributes:
        replayed: they are the answer that an earlier call with the same idempotency key got.
    """

    body: bytes
    request_id: str
    replayed: bool = False


class Call(msgspec.Struct, frozen=True, gc=False):
    """One completion call.

    Attributes:
        candidates: who may answer, the primary first.
        ceiling_nano_usd: the most that any one attempt at any candidate can cost.
        deadline_s: by the running loop's clock.
    """

    request_id: str
    principal: Principal
    tenant_id: str
    user_id: str
    feature_slug: str
    messages: tuple[Message, ...]
    max_tokens: int
    temperature: float | None
    stop: tuple[str, ...]
    response_schema: dict[str, Any] | None
    candidates: tuple[PricedCandidate, ...]
    ceiling_nano_usd: int
    deadline_s: float
    claim: Claim | None

    def provider_request(self, candidate: Candidate) -> ProviderRequest:
        """Return the call in the form that a candidate's adapter translates."""
        return ProviderRequest(
            model=candidate.upstream_model,
            messages=self.messages,
            max_tokens=min(self.max_tokens, candidate.max_output_tokens or self.max_tokens),
            temperature=self.temperature,
            stop=self.stop,
            response_schema=self.response_schema,
        )

    def reservation(self, tried: PricedCandidate, attempt: int, now_ms: int) -> Reservation:
        """Return the reservation of an attempt, charged to the month of its admission."""
        return Reservation(
            request_id=self.request_id,
            attempt=attempt,
            tenant_id=self.tenant_id,
            user_id=self.user_id,
            feature_slug=self.feature_slug,
            service=self.principal.service,
            key_id=self.principal.key_id,
            model=tried.candidate.model,
            provider=tried.candidate.provider,
            price_version=tried.price.version,
            ceiling_nano_usd=self.ceiling_nano_usd,
            billing_period=billing_period(now_ms),
            created_at=utc_text(now_ms),
        )

    def replay(self, kept: Replay) -> Answer:
        """Open the answer kept for this call's idempotency key; raises InternalError if its row was changed."""
        assert self.claim is not None
        try:
            body = self.claim.open(kept.sealed_answer)
        except InvalidTag:
            raise InternalError("the answer kept for this Idempotency-Key cannot be read; use a new key") from None
        return Answer(body, kept.request_id, replayed=True)


class Planner:
    """Turns checked bodies into calls."""

    def __init__(
        self, models: Models, clock: Clock, *, call_timeout_s: float, max_timeout_s: float, keep_answers_hours: int
    ) -> None:
        self._models = models
        self._clock = clock
        self._call_timeout_s = call_timeout_s
        self._max_timeout_s = max_timeout_s
        self._keep_answers_ms = keep_answers_hours * _MS_PER_HOUR

    def plan(
        self, body: CompleteBody, principal: Principal, api_key: str, idempotency_key: str | None, request_id: str
    ) -> Call:
        """Decide who is charged, who may answer, and what it can cost.

        Raises:
            Forbidden, TenantForbidden: the key may not make this call.
            InvalidRequest: something is missing or out of range.
            ModelUnknown, ModelUnpriced: the model cannot be used.
        """
        tenant_id = _tenant(body, principal)
        feature_slug = body.feature_slug or principal.feature_slug
        if not feature_slug:
            raise InvalidRequest("feature_slug: is required, as this key has no feature of its own")
        candidates = self._models.priced(body.model)
        limit = candidates[0].candidate.max_output_tokens
        if limit is not None and body.max_tokens > limit:
            raise InvalidRequest(f"max_tokens: {body.model} is configured for at most {limit}")
        timeout_s = body.timeout_s or self._call_timeout_s
        if timeout_s > self._max_timeout_s:
            raise InvalidRequest(f"timeout_s: expected at most {self._max_timeout_s:g} seconds")
        messages = conversation(body)
        input_tokens = max_input_tokens(messages, body.response_schema)
        return Call(
            request_id=request_id,
            principal=principal,
            tenant_id=tenant_id,
            user_id="" if body.user_id is None else id_text(body.user_id),
            feature_slug=feature_slug,
            messages=messages,
            max_tokens=body.max_tokens,
            temperature=body.temperature,
            stop=stop_sequences(body),
            response_schema=body.response_schema,
            candidates=candidates,
            ceiling_nano_usd=_ceiling_nano_usd(candidates, input_tokens, body.max_tokens),
            deadline_s=asyncio.get_running_loop().time() + timeout_s,
            claim=None if idempotency_key is None else self._claim(body, api_key, idempotency_key),
        )

    def _claim(self, body: CompleteBody, api_key: str, idempotency_key: str) -> Claim:
        if not 0 < len(idempotency_key) <= MAX_IDEMPOTENCY_KEY or not idempotency_key.isprintable():
            raise InvalidRequest(f"Idempotency-Key: expected 1 to {MAX_IDEMPOTENCY_KEY} printable characters")
        expires_at = utc_text(self._clock.now_ms() + self._keep_answers_ms)
        return claim(api_key, idempotency_key, msgspec.json.encode(body), expires_at)


def _ceiling_nano_usd(candidates: Sequence[PricedCandidate], input_tokens: int, max_tokens: int) -> int:
    """Return the most that a call can cost at the dearest of its candidates."""
    ceiling = 0
    for each in candidates:
        max_input_tokens = input_tokens + each.candidate.input_overhead_tokens
        cost = ceiling_nano_usd(each.price, max_input_tokens=max_input_tokens, max_output_tokens=max_tokens)
        ceiling = max(ceiling, cost)
    return ceiling


def _tenant(body: CompleteBody, principal: Principal) -> str:
    """Return whom the call is charged to."""
    if not principal.may_complete:
        raise Forbidden("this key may read usage, but not make calls: its role is reader")
    tenant_id = principal.only_tenant if body.tenant_id is None else id_text(body.tenant_id)
    if tenant_id is None:
        raise InvalidRequest("tenant_id: is required, as this key is not bound to one tenant")
    if not principal.may_act_for(tenant_id):
        raise TenantForbidden(f"this key may not act for tenant {tenant_id}")
    return tenant_id

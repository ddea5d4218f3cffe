"""A call, once its caller is known and its body checked: everything the pipeline needs, decided up front."""

import asyncio
from collections.abc import Mapping, Sequence

import msgspec
from cryptography.exceptions import InvalidTag

from tollhouse.budgets.model import Reservation
from tollhouse.completions.decoding import conversation, stop_sequences
from tollhouse.completions.estimate import probable_tokens
from tollhouse.completions.guarding import Guarded, guarded, raise_kept_refusal
from tollhouse.completions.model import CompleteBody
from tollhouse.completions.models import Candidate, Models, PricedCandidate
from tollhouse.completions.native import NativeQuestion
from tollhouse.completions.question import Question
from tollhouse.completions.relayed import ApiQuestion
from tollhouse.completions.weight import Weight, weigh
from tollhouse.completions.wire.base import Api, Asked
from tollhouse.errors import Forbidden, GuardrailBlocked, InternalError, InvalidRequest, TenantForbidden
from tollhouse.gate.admission import Replay
from tollhouse.guardrails.inspection import FeatureGuards
from tollhouse.idempotency.model import Claim, claim
from tollhouse.keys.model import Principal
from tollhouse.kit.clock import Clock, billing_period, utc_text
from tollhouse.kit.ids import id_text
from tollhouse.pricing.model import ceiling_nano_usd

MAX_IDEMPOTENCY_KEY = 255
_MS_PER_HOUR = 3_600_000
# Beyond every cap, and so refused; but no more than the database can count.
_MOST_NANO_USD = 2**62


class Answer(msgspec.Struct, frozen=True, gc=False):
    """The bytes that go to the caller.

    Attributes:
        replayed: they are the answer that an earlier call with the same idempotency key got.
        is_stream: they are a stream's events.
        blocked: what the caller gets instead, where a guardrail lets none of them pass.
    """

    body: bytes
    request_id: str
    replayed: bool = False
    is_stream: bool = False
    blocked: GuardrailBlocked | None = None


class Whose(msgspec.Struct, frozen=True, gc=False):
    """Whom a call says it is made for; a key may supply what it leaves out."""

    tenant_id: str | None
    user_id: str
    feature_slug: str | None


class Limits(msgspec.Struct, frozen=True):
    """What bounds a call that does not bound itself.

    Attributes:
        call_timeout_s: its deadline; for a stream, until it begins.
        max_timeout_s: the longest deadline it may ask for.
        stream_timeout_s: how long a stream may take from beginning to end.
        keep_answers_hours: for how long its answer is kept for its idempotency key.
        default_max_output_tokens: the output limit of a request of an existing client that sets none, of a model
            without a limit of its own.
    """

    call_timeout_s: float
    max_timeout_s: float
    keep_answers_hours: int
    stream_timeout_s: float = 600
    default_max_output_tokens: int = 4096


class Call(msgspec.Struct, frozen=True, gc=False):
    """One completion call.

    Attributes:
        candidates: who may answer, the primary first.
        ceiling_nano_usd: the most that any one attempt at any candidate can cost.
        deadline_s: by the running loop's clock; for a stream, when it has to have begun.
        stream_timeout_s: how long a stream may take from beginning to end.
        tiers: the tiers whose tenants may use the model; None for all.
        tier_chains: the fallbacks of the tiers that have their own; None where none has.
        tokens: how many tokens it probably uses at most, for limits on them.
        guarded: what guardrails found in it, and do with its answer; None where that is nothing.
    """

    request_id: str
    principal: Principal
    tenant_id: str
    user_id: str
    feature_slug: str
    question: Question
    candidates: tuple[PricedCandidate, ...]
    ceiling_nano_usd: int
    deadline_s: float
    claim: Claim | None
    stream_timeout_s: float = 600
    tiers: frozenset[str] | None = None
    tier_chains: Mapping[str, tuple[PricedCandidate, ...]] | None = None
    tokens: int = 0
    guarded: Guarded | None = None

    def for_tier(self, tier: str | None) -> "Call":
        """Return the call with the fallbacks, and so the ceiling, of its tenant's tier; raises as ``Planner.plan``."""
        fallbacks = None if self.tier_chains is None or tier is None else self.tier_chains.get(tier)
        if fallbacks is None:
            return self
        candidates = (self.candidates[0], *fallbacks)
        ceiling = _ceiling_nano_usd(candidates, self.question.weight, self.question.max_tokens)
        return msgspec.structs.replace(self, candidates=candidates, ceiling_nano_usd=ceiling)

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
        """Open the answer kept for this call's idempotency key.

        Raises:
            GuardrailBlocked: the answer was blocked.
            InternalError: its row was changed.
        """
        assert self.claim is not None
        try:
            body = self.claim.open(kept.sealed_answer)
        except InvalidTag:
            raise InternalError("the answer kept for this Idempotency-Key cannot be read; use a new key") from None
        raise_kept_refusal(body)
        return Answer(body, kept.request_id, replayed=True, is_stream=self.question.is_stream)


class Planner:
    """Turns checked requests into calls."""

    def __init__(self, models: Models, clock: Clock, limits: Limits, guards: FeatureGuards) -> None:
        self._guards = guards
        self._models = models
        self._clock = clock
        self._limits = limits

    def plan(
        self,
        body: CompleteBody,
        principal: Principal,
        api_key: str,
        idempotency_key: str | None,
        request_id: str,
        timeout: str | None = None,
    ) -> Call:
        """Decide who is charged for a call in Tollhouse's own format, who may answer, and what it can cost.

        Args:
            timeout: its ``X-Request-Timeout``; of this and the body's ``timeout_s`` the smaller counts.

        Raises:
            Forbidden, TenantForbidden: the key may not make this call.
            InvalidRequest: something is missing or out of range.
            ModelUnknown, ModelUnpriced: the model cannot be used.
        """
        whose = Whose(
            None if body.tenant_id is None else id_text(body.tenant_id),
            "" if body.user_id is None else id_text(body.user_id),
            body.feature_slug,
        )
        candidates = self._models.priced(body.model)
        feature_slug = feature_of(whose, principal)
        question, found = self._guarded_question(
            NativeQuestion(
                model=body.model,
                messages=conversation(body),
                max_tokens=body.max_tokens,
                temperature=body.temperature,
                stop=stop_sequences(body),
                response_schema=body.response_schema,
                is_stream=body.stream,
            ),
            feature_slug,
        )
        claimed = None
        if idempotency_key is not None:
            claimed = self._claim(msgspec.json.encode(body), api_key, idempotency_key)
        timeout_s = body.timeout_s
        if timeout is not None:
            header_s = _timeout_s(timeout)
            timeout_s = header_s if timeout_s is None else min(timeout_s, header_s)
        return self._call(question, candidates, whose, feature_slug, principal, timeout_s, claimed, request_id, found)

    def plan_api(
        self,
        api: Api,
        asked: Asked,
        raw: bytes,
        whose: Whose,
        principal: Principal,
        api_key: str,
        headers: Mapping[str, str],
        request_id: str,
    ) -> Call:
        """Decide the same for a request of an existing client.

        Args:
            raw: its body.
            headers: its headers, names in lower case.

        Raises:
            as ``plan``.
        """
        candidates = self._models.priced(asked.model)
        limit = asked.max_tokens
        if limit is None:
            limit = candidates[0].candidate.max_output_tokens or self._limits.default_max_output_tokens
        feature_slug = feature_of(whose, principal)
        asked, body_bytes, found = self._guarded_request(api, asked, raw, feature_slug)
        weight = weigh(
            asked.body,
            body_bytes,
            max_searches=asked.max_searches,
            max_steps=asked.max_steps,
            reads_stored=asked.reads_stored,
        )
        question = ApiQuestion(api, asked, limit, weight, prompt_bytes=weight.text_tokens, headers=headers)
        claimed, key = None, headers.get("idempotency-key")
        if key is not None:
            # What path and headers say is part of what was asked: for another tenant it is another question.
            told = (api.name, asked.is_stream, asked.model, *_charged(whose, principal))
            claimed = self._claim(msgspec.json.encode(told) + b"\n" + raw, api_key, key)
        timeout = headers.get("x-request-timeout")
        timeout_s = None if timeout is None else _timeout_s(timeout)
        return self._call(question, candidates, whose, feature_slug, principal, timeout_s, claimed, request_id, found)

    def _guarded_question(
        self, question: NativeQuestion, feature_slug: str | None
    ) -> tuple[NativeQuestion, Guarded | None]:
        """Return a question as guardrails let it pass, and what they found."""
        guard = self._guards.of(feature_slug)
        if guard.passes_texts([str(message.content) for message in question.messages]):
            return question, None
        body = question.as_body()
        inspected = guard.inspect(body)
        if inspected.body is not body:
            question = question.with_body(inspected.body)
        return question, guarded(guard, "native", body, inspected)

    def _guarded_request(
        self, api: Api, asked: Asked, raw: bytes, feature_slug: str | None
    ) -> tuple[Asked, int, Guarded | None]:
        """Return a request as guardrails let it pass, its length as JSON, and what they found."""
        guard = self._guards.of(feature_slug)
        if guard.passes(raw):
            return asked, len(raw), None
        inspected = guard.inspect(asked.body)
        found = guarded(guard, api.name, asked.body, inspected)
        if inspected.body is asked.body:
            return asked, len(raw), found
        # What was read of it, such as the end user's name, is read from what is sent.
        sent = msgspec.json.encode(inspected.body)
        return api.read(sent, asked.model, is_stream=asked.is_stream), len(sent), found

    def _call(
        self,
        question: Question,
        candidates: tuple[PricedCandidate, ...],
        whose: Whose,
        feature_slug: str | None,
        principal: Principal,
        timeout_s: float | None,
        claimed: Claim | None,
        request_id: str,
        found: Guarded | None,
    ) -> Call:
        tenant_id = tenant_of(whose, principal)
        if not feature_slug:
            raise InvalidRequest("feature_slug: is required, as this key has no feature of its own")
        limit = candidates[0].candidate.max_output_tokens
        if limit is not None and question.max_tokens > limit * question.answers:
            raise InvalidRequest(f"max_tokens: {question.model} is configured for at most {limit}")
        timeout_s = timeout_s or self._limits.call_timeout_s
        if timeout_s > self._limits.max_timeout_s:
            raise InvalidRequest(f"timeout_s: expected at most {self._limits.max_timeout_s:g} seconds")
        weight = question.weight
        return Call(
            request_id=request_id,
            principal=principal,
            tenant_id=tenant_id,
            user_id=whose.user_id,
            feature_slug=feature_slug,
            question=question,
            candidates=candidates,
            ceiling_nano_usd=_ceiling_nano_usd(candidates, weight, question.max_tokens),
            deadline_s=asyncio.get_running_loop().time() + timeout_s,
            claim=claimed,
            stream_timeout_s=self._limits.stream_timeout_s,
            tiers=self._models.tiers_of(candidates[0].candidate.model),
            tier_chains=self._models.tier_chains(candidates[0].candidate.model),
            tokens=probable_tokens(
                weight,
                question.max_tokens,
                image_tokens=candidates[0].candidate.max_image_tokens,
                window=candidates[0].candidate.context_window,
            ),
            guarded=found,
        )

    def _claim(self, content: bytes, api_key: str, idempotency_key: str) -> Claim:
        if not 0 < len(idempotency_key) <= MAX_IDEMPOTENCY_KEY or not idempotency_key.isprintable():
            raise InvalidRequest(f"Idempotency-Key: expected 1 to {MAX_IDEMPOTENCY_KEY} printable characters")
        expires_at = utc_text(self._clock.now_ms() + self._limits.keep_answers_hours * _MS_PER_HOUR)
        return claim(api_key, idempotency_key, content, expires_at)


def _timeout_s(text: str) -> float:
    """Return the deadline that a client sets in ``X-Request-Timeout``, in seconds; raises InvalidRequest."""
    try:
        timeout_s = float(text)
    except ValueError:
        timeout_s = 0.0
    if not 0 < timeout_s < 1e9:
        raise InvalidRequest("X-Request-Timeout: expected a number of seconds above 0")
    return timeout_s


def _ceiling_nano_usd(candidates: Sequence[PricedCandidate], weight: Weight, max_tokens: int) -> int:
    """Return the most that a call can cost at the dearest of its candidates."""
    ceiling = 0
    for each in candidates:
        searches = max(weight.max_searches, each.candidate.own_searches)
        cost = ceiling_nano_usd(
            each.price,
            max_input_tokens=_max_input_tokens(each.candidate, weight, searches),
            max_output_tokens=max_tokens,
            max_searches=searches,
            has_audio=weight.is_unbounded or weight.audio_tokens > 0,
            has_images=weight.is_unbounded or weight.images > 0,
        )
        ceiling = max(ceiling, cost)
    return min(ceiling, _MOST_NANO_USD)


def _max_input_tokens(candidate: Candidate, weight: Weight, max_searches: int) -> int:
    """Return the most that one candidate can read for a request."""
    tokens = weight.text_tokens + candidate.input_overhead_tokens
    if weight.images or weight.audio_tokens:
        tokens += weight.images * candidate.max_image_tokens + weight.audio_tokens
    if weight.is_unbounded or max_searches:
        window = candidate.context_window
        if window is None:
            raise InvalidRequest(
                f"model: {candidate.model} has no context_window, without which nothing bounds what documents, "
                "addresses, stored input and search tools can cost; it can be configured for the model"
            )
        tokens = window
    # Each step reads everything again.
    return tokens * (1 + max(weight.max_steps, max_searches))


def _charged(whose: Whose, principal: Principal) -> tuple[str | None, str | None, str]:
    """Return whom a call is charged to, as far as that is known before it is checked."""
    tenant_id = principal.only_tenant if whose.tenant_id is None else whose.tenant_id
    return tenant_id, feature_of(whose, principal), whose.user_id


def feature_of(whose: Whose, principal: Principal) -> str | None:
    """Return what the call is for."""
    return whose.feature_slug or principal.feature_slug


def tenant_of(whose: Whose, principal: Principal) -> str:
    """Return whom the call is charged to; raises Forbidden, InvalidRequest or TenantForbidden."""
    if not principal.may_complete:
        raise Forbidden("this key may read usage, but not make calls: its role is reader")
    tenant_id = principal.only_tenant if whose.tenant_id is None else whose.tenant_id
    if tenant_id is None:
        raise InvalidRequest("tenant_id: is required, as this key is not bound to one tenant")
    if not principal.may_act_for(tenant_id):
        raise TenantForbidden(f"this key may not act for tenant {tenant_id}", tenant_id=tenant_id)
    return tenant_id

"""From a provider's answer to the ledger row and the bytes the caller gets."""

import structlog

from tollhouse.budgets.model import Reservation
from tollhouse.completions.call import Call
from tollhouse.completions.estimate import estimated_usage
from tollhouse.completions.model import Envelope, encode
from tollhouse.completions.models import PricedCandidate
from tollhouse.kit.money import usd
from tollhouse.ledger.model import Settlement
from tollhouse.pricing.model import cost_nano_usd
from tollhouse.providers.base import ProviderAnswer
from tollhouse.telemetry.metrics import Metrics

_LOG = structlog.get_logger("tollhouse.completions")


def settle(
    call: Call, tried: PricedCandidate, reservation: Reservation, answer: ProviderAnswer, latency_ms: int, now: str
) -> tuple[Settlement, bytes]:
    """Price an answer; return the row to be made durable, and the body to be sent once it is."""
    usage = answer.usage or estimated_usage(call.messages, answer.content, call.max_tokens)
    cost = cost_nano_usd(tried.price, usage)
    envelope = Envelope(
        content=answer.content,
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cost_usd=usd(cost),
        request_id=call.request_id,
        model=reservation.model,
        provider=reservation.provider,
        cached_input_tokens=usage.cached_input_tokens,
        cache_write_tokens=usage.cache_write_tokens + usage.cache_write_1h_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        total_tokens=usage.total_tokens,
        finish_reason=answer.finish_reason,
        fallback_used=tried is not call.candidates[0],
        usage_source="estimated" if answer.usage is None else "reported",
        latency_ms=latency_ms,
    )
    body = encode(envelope)
    settlement = Settlement(
        reservation=reservation,
        status="settled",
        usage=usage,
        usage_source="estimated" if answer.usage is None else "reported",
        cost_nano_usd=cost,
        finish_reason=answer.finish_reason,
        latency_ms=latency_ms,
        created_at=now,
        claim=call.claim,
        sealed_answer=None if call.claim is None else call.claim.seal(body),
    )
    return settlement, body


def count(metrics: Metrics, settlement: Settlement) -> None:
    """Count a settled attempt, and raise the alarm when it cost more than its ceiling.

    It is posted in full even then: the money is spent. It is the one way past a cap, taken by a provider that
    breaks the limit it was given.
    """
    reservation, usage = settlement.reservation, settlement.usage
    tokens = (
        usage.input_tokens,
        usage.cached_input_tokens,
        usage.cache_write_tokens + usage.cache_write_1h_tokens,
        usage.output_tokens,
        usage.reasoning_tokens,
    )
    metrics.spent(reservation.provider, reservation.model, tokens, settlement.cost_nano_usd)
    if settlement.cost_nano_usd > reservation.ceiling_nano_usd:
        metrics.overran(reservation.provider, reservation.model)
        _LOG.error(
            "a provider billed more than the limits it was given allow",
            request_id=reservation.request_id,
            provider=reservation.provider,
            model=reservation.model,
            cost_nano_usd=settlement.cost_nano_usd,
            ceiling_nano_usd=reservation.ceiling_nano_usd,
        )

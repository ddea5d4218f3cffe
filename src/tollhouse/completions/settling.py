"""From a provider's answer to its price and its row in the ledger."""

import structlog

from tollhouse.budgets.model import Reservation
from tollhouse.completions.call import Call
from tollhouse.completions.estimate import estimated_usage, utf8_bytes
from tollhouse.completions.models import PricedCandidate
from tollhouse.completions.question import Told
from tollhouse.ledger.model import Settlement
from tollhouse.pricing.model import cost_nano_usd
from tollhouse.providers.conversation import ProviderAnswer, Text, Thinking, ToolCall
from tollhouse.providers.usage import Usage
from tollhouse.telemetry.metrics import Metrics

_LOG = structlog.get_logger("tollhouse.completions")


def tell(
    call: Call,
    tried: PricedCandidate,
    reservation: Reservation,
    answer: ProviderAnswer,
    *,
    latency_ms: int,
    now_ms: int,
    raw: bytes | None = None,
    answer_bytes: int | None = None,
) -> Told:
    """Price an answer.

    Args:
        raw: the provider's own bytes, where they are relayed.
        answer_bytes: the length of what it said, where ``answer`` does not hold it.
    """
    usage = answer.usage
    if usage is None:
        written = answer_text_bytes(answer) if answer_bytes is None else answer_bytes
        usage = estimated(call, written)
    return Told(
        answer=answer,
        usage=usage,
        usage_source="estimated" if answer.usage is None else "reported",
        cost_nano_usd=cost_nano_usd(tried.price, usage),
        request_id=call.request_id,
        model=reservation.model,
        provider=reservation.provider,
        fallback_used=tried is not call.candidates[0],
        latency_ms=latency_ms,
        created_s=now_ms // 1000,
        raw=raw,
    )


def estimated(call: Call, answer_bytes: int) -> Usage:
    """Return what a call probably used.

    Args:
        answer_bytes: the length of what its first answer says; the others are taken to be as long.
    """
    question = call.question
    return estimated_usage(question.prompt_bytes, answer_bytes * question.answers, question.max_tokens)


def answer_text_bytes(answer: ProviderAnswer) -> int:
    """Return the bytes of all that a model wrote: its thinking and its calls too."""
    if not answer.parts:
        return utf8_bytes(answer.content)
    return sum(map(_part_bytes, answer.parts))


def _part_bytes(part: Text | ToolCall | Thinking) -> int:
    return utf8_bytes(part.name) + utf8_bytes(part.arguments) if isinstance(part, ToolCall) else utf8_bytes(part.text)


def settlement_of(call: Call, reservation: Reservation, told: Told, body: bytes, now: str) -> Settlement:
    """Return the row to be made durable before an answer's last bytes are sent; ``body`` is kept for its key."""
    return Settlement(
        reservation=reservation,
        status="settled",
        usage=told.usage,
        usage_source=told.usage_source,
        cost_nano_usd=told.cost_nano_usd,
        finish_reason=told.answer.finish_reason,
        latency_ms=told.latency_ms,
        created_at=now,
        claim=call.claim,
        sealed_answer=None if call.claim is None else call.claim.seal(body),
    )


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
        usage.audio_input_tokens,
        usage.image_input_tokens,
        usage.audio_output_tokens,
        usage.image_output_tokens,
    )
    metrics.spent(reservation.provider, reservation.model, tokens, settlement.cost_nano_usd, usage.web_searches)
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

"""One exchange with one provider, and what its failure means for the caller and for the money."""

import asyncio
from collections.abc import Callable
from typing import Literal

import msgspec
import structlog

from tollhouse.completions.call import Call
from tollhouse.completions.counting import estimated_count
from tollhouse.completions.models import Candidate
from tollhouse.completions.question import Prepared
from tollhouse.completions.relayed import ApiQuestion
from tollhouse.errors import CallTimeout, InternalError, ProviderRejected, TollhouseError, Unavailable
from tollhouse.providers.base import (
    CountsTokens,
    NotSent,
    OutcomeUnknown,
    Overloaded,
    Rejected,
    TimedOut,
    Unreachable,
    WireResponse,
)
from tollhouse.providers.conversation import ProviderAnswer

_LOG = structlog.get_logger("tollhouse.completions")
_RETRY_AFTER_S = 1.0
# Of the time that is fair to give an attempt: a call's own deadline begins a little before its first attempt does.
_NEARLY_ALL = 0.9

Verdict = Literal["failed", "answered", "nothing"]


class Failed(msgspec.Struct, frozen=True):
    """An attempt that brought no answer.

    Attributes:
        error: what the caller is told if nobody else answers.
        outcome: ``not_sent`` and ``refused`` cost nothing; ``unknown`` may be billed.
        may_go_on: another attempt cannot pay twice, and may fare better.
        pause_s: how long the provider asked to be left alone, if it did.
        cause: what went wrong, in a word, for whoever follows failovers: ``unreachable``, ``http_503``, ``timeout``, …
        verdict: what it says of the provider: ``failed``; ``answered``, though not with what was wanted; or
            ``nothing``, since it was never asked, or was not given its time.
        status: the HTTP status that it refused with.
    """

    error: TollhouseError
    outcome: str
    may_go_on: bool = False
    pause_s: float | None = None
    cause: str = "other"
    verdict: Verdict = "nothing"
    status: int | None = None


class Received(msgspec.Struct, frozen=True, gc=False):
    """An attempt that brought an answer.

    Attributes:
        raw: its bytes as they came.
    """

    answer: ProviderAnswer
    raw: bytes


async def dispatch(
    candidate: Candidate, prepared: Prepared, call_deadline_s: float, may_send: Callable[[], bool] | None = None
) -> Received | Failed:
    """Send a request and translate what comes back. Never raises, but for cancellation.

    Args:
        call_deadline_s: by the running loop's clock; the provider's own timeouts may end the wait earlier.
        may_send: asked right before sending, whether the attempt is still this instance's to make.
    """
    began_s = asyncio.get_running_loop().time()
    deadline_s = min(call_deadline_s, began_s + candidate.timeout_s)
    response: WireResponse | None = None
    try:
        response = await candidate.transport.post(
            prepared.wire,
            deadline_s=deadline_s,
            first_byte_timeout_s=candidate.first_byte_timeout_s,
            may_send=may_send,
        )
        return Received(prepared.dialect.decode(response), response.body)
    except Exception as error:  # noqa: BLE001 - told apart there
        relayed = response if prepared.is_relayed else None
        return failure_of(candidate, error, call_deadline_s, relayed, began_s=began_s)


async def count_at(candidate: Candidate, call: Call, may_send: Callable[[], bool]) -> bytes | Failed:
    """Have a candidate's provider count the tokens of a prompt; estimate them where it cannot."""
    adapter, question = candidate.adapter, call.question
    if not isinstance(adapter, CountsTokens) or not isinstance(question, ApiQuestion):
        return estimated_count(question.prompt_bytes)
    response: WireResponse | None = None
    try:
        response = await candidate.transport.post(
            adapter.count_tokens(question.asked.body, candidate.upstream_model, question.headers),
            deadline_s=call.deadline_s,
            first_byte_timeout_s=candidate.first_byte_timeout_s,
            may_send=may_send,
        )
        if response.status != 200:
            adapter.decode(response)
    except Exception as error:  # noqa: BLE001 - told apart there
        return failure_of(candidate, error, call.deadline_s, response)
    return response.body


def failure_of(
    candidate: Candidate,
    error: Exception,
    call_deadline_s: float,
    relayed: WireResponse | None = None,
    *,
    began_s: float | None = None,
) -> Failed:
    """Return what the failure of an attempt means.

    Args:
        error: what sending it, or reading its answer, raised.
        call_deadline_s: by the running loop's clock, and so is
        began_s: when the attempt began; None leaves open whether it was given its time.
        relayed: an answer that is the caller's, in a format of its own, should it be a refusal of the request.
    """
    name = candidate.provider
    now_s = asyncio.get_running_loop().time()
    match error:
        case NotSent() if now_s >= call_deadline_s:
            late = CallTimeout(f"the call's deadline passed before {name} could be reached")
            return Failed(late, "not_sent", cause="deadline")
        case NotSent():
            gone = Unavailable(f"{name} cannot be reached: {error}", retry_after_s=_RETRY_AFTER_S)
            if isinstance(error, Unreachable):
                return Failed(gone, "not_sent", may_go_on=True, cause="unreachable", verdict="failed")
            return Failed(gone, "not_sent", may_go_on=True, cause="not_sent")
        case Rejected():
            rejected = ProviderRejected(f"{name} refused the request: {error}")
            if relayed is not None:
                rejected.relayed = (relayed.status, relayed.body)
            return Failed(rejected, "refused", cause=f"http_{error.status}", verdict="answered", status=error.status)
        case Overloaded():
            busy = Unavailable(f"{name} cannot answer: {error}", retry_after_s=error.retry_after_s or _RETRY_AFTER_S)
            return Failed(
                busy,
                "refused",
                may_go_on=True,
                pause_s=error.retry_after_s,
                cause=f"http_{error.status}",
                verdict="failed",
                status=error.status,
            )
        case TimedOut():
            fair_s = _NEARLY_ALL * (candidate.fair_s or candidate.timeout_s)
            is_cut_short = now_s >= call_deadline_s and began_s is not None and call_deadline_s - began_s < fair_s
            verdict: Verdict = "nothing" if is_cut_short else "failed"
            late = CallTimeout(f"{name} timed out: {error}; the call may be billed, {_HELD}", may_be_billed=True)
            return Failed(late, "unknown", cause="timeout", verdict=verdict)
        case OutcomeUnknown():
            lost = Unavailable(
                f"{name} brought no usable answer: {error}; {_HELD}", retry_after_s=_RETRY_AFTER_S, may_be_billed=True
            )
            return Failed(lost, "unknown", cause="no_answer", verdict="failed" if error.is_providers else "nothing")
    # A defect in an adapter must not leave a reservation behind, nor be taken for a refusal that costs nothing.
    _LOG.error("an answer could not be handled", provider=name, model=candidate.model, exc_info=error)
    defect = InternalError(f"the answer of {name} could not be handled; {_HELD}", may_be_billed=True)
    return Failed(defect, "unknown")


_HELD = "its ceiling stays counted against the budget until its outcome is known"

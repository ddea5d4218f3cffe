"""One exchange with one provider, and what its failure means for the caller and for the money."""

import asyncio
from collections.abc import Callable

import msgspec
import structlog

from tollhouse.completions.models import Candidate
from tollhouse.errors import CallTimeout, InternalError, ProviderRejected, TollhouseError, Unavailable
from tollhouse.providers.base import (
    NotSent,
    OutcomeUnknown,
    Overloaded,
    ProviderAnswer,
    Rejected,
    TimedOut,
    WireRequest,
)

_LOG = structlog.get_logger("tollhouse.completions")
_RETRY_AFTER_S = 1.0


class Failed(msgspec.Struct, frozen=True):
    """An attempt that brought no answer.

    Attributes:
        error: what the caller is told if nobody else answers.
        outcome: ``not_sent`` and ``refused`` cost nothing; ``unknown`` may be billed.
        may_go_on: another attempt cannot pay twice, and may fare better.
        pause_s: how long the provider asked to be left alone, if it did.
    """

    error: TollhouseError
    outcome: str
    may_go_on: bool = False
    pause_s: float | None = None


async def dispatch(
    candidate: Candidate, wire: WireRequest, call_deadline_s: float, may_send: Callable[[], bool] | None = None
) -> ProviderAnswer | Failed:
    """Send a request and translate what comes back. Never raises, but for cancellation.

    Args:
        call_deadline_s: by the running loop's clock; the provider's own timeouts may end the wait earlier.
        may_send: asked right before sending, whether the attempt is still this instance's to make.
    """
    loop = asyncio.get_running_loop()
    deadline_s = min(call_deadline_s, loop.time() + candidate.timeout_s)
    name = candidate.provider
    try:
        response = await candidate.transport.post(
            wire, deadline_s=deadline_s, first_byte_timeout_s=candidate.first_byte_timeout_s, may_send=may_send
        )
        return candidate.adapter.decode(response)
    except NotSent as error:
        if loop.time() >= call_deadline_s:
            return Failed(CallTimeout(f"the call's deadline passed before {name} could be reached"), "not_sent")
        unreachable = Unavailable(f"{name} cannot be reached: {error}", retry_after_s=_RETRY_AFTER_S)
        return Failed(unreachable, "not_sent", may_go_on=True)
    except Rejected as error:
        return Failed(ProviderRejected(f"{name} refused the request: {error}"), "refused")
    except Overloaded as error:
        busy = Unavailable(f"{name} cannot answer: {error}", retry_after_s=error.retry_after_s or _RETRY_AFTER_S)
        return Failed(busy, "refused", may_go_on=True, pause_s=error.retry_after_s)
    except TimedOut as error:
        return Failed(CallTimeout(f"{name} timed out: {error}; the call may be billed, {_HELD}"), "unknown")
    except OutcomeUnknown as error:
        lost = Unavailable(f"{name} brought no usable answer: {error}; {_HELD}", retry_after_s=_RETRY_AFTER_S)
        return Failed(lost, "unknown")
    except Exception:  # noqa: BLE001 - see below
        # A defect in an adapter must not leave a reservation behind, nor be taken for a refusal that costs nothing.
        _LOG.exception("an answer could not be handled", provider=name, model=candidate.model)
        return Failed(InternalError(f"the answer of {name} could not be handled; {_HELD}"), "unknown")


_HELD = "its ceiling stays counted against the budget until its outcome is known"

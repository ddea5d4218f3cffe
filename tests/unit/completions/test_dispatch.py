"""What an attempt's failure means: for the caller, for the money, and for another attempt."""

import asyncio

import pytest

from harness.providers import PlainAdapter, Provider, answer, candidate
from tollhouse.completions.dispatch import Failed, Received, dispatch
from tollhouse.completions.question import Prepared
from tollhouse.errors import CallTimeout, InternalError, ProviderRejected, Unavailable
from tollhouse.providers.base import NotSent, OutcomeUnknown, Overloaded, Rejected, TimedOut, WireRequest, WireResponse

ASKED = Prepared(WireRequest("/complete", (), b'{"model":"m","messages":[],"max_tokens":1}'), PlainAdapter())


def outcome_of(step, *, remaining_s=60.0):
    async def main():
        deadline_s = asyncio.get_running_loop().time() + remaining_s
        return await dispatch(candidate("small", Provider(step)), ASKED, deadline_s)

    return asyncio.run(main())


def test_an_answer_is_handed_on():
    outcome = outcome_of(answer("four"))
    assert isinstance(outcome, Received)
    assert outcome.answer.content == "four"
    assert outcome.raw == answer("four").body


@pytest.mark.parametrize(
    ("step", "error", "outcome", "may_go_on", "pause_s"),
    [
        (NotSent("refused"), Unavailable, "not_sent", True, None),
        (Rejected("bad schema", status=400), ProviderRejected, "refused", False, None),
        (Overloaded("busy", status=503), Unavailable, "refused", True, None),
        (Overloaded("busy", status=429, retry_after_s=7.0), Unavailable, "refused", True, 7.0),
        (TimedOut("too slow"), CallTimeout, "unknown", False, None),
        (OutcomeUnknown("broke off"), Unavailable, "unknown", False, None),
        (RuntimeError("a defect"), InternalError, "unknown", False, None),
        (WireResponse(200, {}, b"no answer"), InternalError, "unknown", False, None),
    ],
)
def test_each_failure_has_its_meaning(step, error, outcome, may_go_on, pause_s):
    failed = outcome_of(step)
    assert isinstance(failed, Failed)
    assert type(failed.error) is error
    assert (failed.outcome, failed.may_go_on, failed.pause_s) == (outcome, may_go_on, pause_s)
    assert "small inc" in failed.error.message
    assert (failed.error.retry_after_s is not None) == (error is Unavailable)


def test_only_what_cannot_be_billed_is_tried_again():
    for step in (TimedOut("x"), OutcomeUnknown("x"), RuntimeError("x"), Rejected("x", status=422)):
        assert not outcome_of(step).may_go_on


def test_the_providers_reason_is_passed_on_and_a_held_ceiling_told():
    assert "bad schema" in outcome_of(Rejected("bad schema", status=400)).error.message
    for step in (TimedOut("x"), OutcomeUnknown("x"), RuntimeError("x")):
        assert "stays counted against the budget" in outcome_of(step).error.message


def test_a_defect_does_not_show_what_it_stumbled_over():
    assert "secret" not in outcome_of(ValueError("the secret prompt")).error.message


def test_the_providers_wish_for_a_pause_is_told_to_the_caller():
    assert outcome_of(Overloaded("busy", status=429, retry_after_s=7.0)).error.retry_after_s == 7.0
    assert outcome_of(Overloaded("busy", status=429)).error.retry_after_s == 1.0


def test_a_provider_that_could_not_be_reached_by_the_deadline_is_a_timeout_that_costs_nothing():
    failed = outcome_of(NotSent("too late"), remaining_s=-1.0)
    assert isinstance(failed.error, CallTimeout)
    assert (failed.outcome, failed.may_go_on) == ("not_sent", False)


@pytest.mark.parametrize(("remaining_s", "timeout_s", "expected_s"), [(60.0, 5.0, 5.0), (3.0, 5.0, 3.0)])
def test_an_attempt_ends_at_the_providers_timeout_or_the_calls_deadline(remaining_s, timeout_s, expected_s):
    class Noting(Provider):
        async def post(self, wire, *, deadline_s, first_byte_timeout_s, may_send):
            self.deadline_s = deadline_s
            return answer()

    async def main():
        provider, now_s = Noting(), asyncio.get_running_loop().time()
        await dispatch(candidate("small", provider, timeout_s=timeout_s), ASKED, now_s + remaining_s)
        # A moment passes before the attempt begins, by which its own timeout ends later.
        assert now_s + expected_s <= provider.deadline_s <= asyncio.get_running_loop().time() + expected_s

    asyncio.run(main())


@pytest.mark.parametrize("first_byte_timeout_s", [None, 2.5])
def test_the_transport_is_told_how_long_an_answer_may_take_to_begin(first_byte_timeout_s):
    told = []

    class Noting(Provider):
        async def post(self, wire, *, deadline_s, first_byte_timeout_s, may_send):
            told.append(first_byte_timeout_s)
            return answer()

    async def main():
        at = candidate("small", Noting(), first_byte_timeout_s=first_byte_timeout_s)
        await dispatch(at, ASKED, asyncio.get_running_loop().time() + 60)

    asyncio.run(main())
    assert told == [first_byte_timeout_s]


def test_what_was_too_late_is_told():
    message = outcome_of(TimedOut("api.example did not begin to answer in time")).error.message
    assert message.startswith("small inc timed out: api.example did not begin to answer in time; ")


@pytest.mark.parametrize("is_relayed", [True, False])
def test_a_refusal_in_the_callers_own_format_is_handed_on_as_it_came(is_relayed):
    refusal = WireResponse(400, {}, b'{"error":{"message":"no such tool"}}')

    async def main():
        asked = Prepared(ASKED.wire, ASKED.dialect, is_relayed=is_relayed)
        return await dispatch(candidate("small", Provider(refusal)), asked, asyncio.get_running_loop().time() + 60)

    error = asyncio.run(main()).error
    assert isinstance(error, ProviderRejected)
    assert error.relayed == ((400, refusal.body) if is_relayed else None)
    assert "no such tool" in error.message


def test_a_cancelled_attempt_is_cancelled():
    class Cancelled(Provider):
        async def post(self, wire, *, deadline_s, first_byte_timeout_s, may_send):
            raise asyncio.CancelledError

    async def main():
        with pytest.raises(asyncio.CancelledError):
            await dispatch(candidate("small", Cancelled()), ASKED, asyncio.get_running_loop().time() + 60)

    asyncio.run(main())

from datetime import UTC, datetime, timedelta, timezone

import pytest

from tollhouse.kit.clock import SystemClock, billing_period, epoch_ms, utc_text

LAST_OF_MARCH = epoch_ms(datetime(2026, 3, 31, 23, 59, 59, 999_000, UTC))


def test_an_instant_is_text_in_utc_with_milliseconds():
    assert utc_text(LAST_OF_MARCH) == "2026-03-31T23:59:59.999Z"
    assert utc_text(LAST_OF_MARCH + 1) == "2026-04-01T00:00:00.000Z"


def test_texts_sort_as_their_instants_do():
    instants = [0, 999, 1000, LAST_OF_MARCH - 1, LAST_OF_MARCH, LAST_OF_MARCH + 1, 4_102_444_800_000]
    assert sorted(map(utc_text, instants)) == [utc_text(instant) for instant in instants]


@pytest.mark.parametrize(("after_ms", "period"), [(0, "2026-03"), (1, "2026-04"), (31 * 86_400_000, "2026-05")])
def test_the_billing_period_is_the_calendar_month_in_utc(after_ms, period):
    assert billing_period(LAST_OF_MARCH + after_ms) == period


def test_the_month_is_utcs_wherever_the_moment_was_written():
    still_march_in_new_york = datetime(2026, 3, 31, 20, 30, tzinfo=timezone(-timedelta(hours=4)))
    assert billing_period(epoch_ms(still_march_in_new_york)) == "2026-04"


def test_a_moment_without_a_time_zone_is_refused():
    with pytest.raises(ValueError, match="needs its time zone"):
        epoch_ms(datetime(2026, 1, 1))  # noqa: DTZ001 - what is refused


def test_text_and_instant_are_inverse():
    assert epoch_ms(datetime.fromisoformat(utc_text(LAST_OF_MARCH))) == LAST_OF_MARCH


def test_the_system_clock_tells_the_systems_time_and_never_runs_back():
    clock = SystemClock()
    before_ms = epoch_ms(datetime.now(UTC)) - 1
    now_ms = clock.now_ms()
    assert before_ms <= now_ms <= epoch_ms(datetime.now(UTC)) + 1
    assert clock.monotonic_s() <= clock.monotonic_s()

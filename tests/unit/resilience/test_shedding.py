"""When calls are turned away for the sake of this process."""

import asyncio
import time

import pytest

from tollhouse.apps import health
from tollhouse.resilience.shedding import LoadShedder, SheddingLimits


def test_a_loop_that_is_late_again_and_again_turns_calls_away_until_it_has_recovered():
    shedder = LoadShedder(SheddingLimits(max_lag_s=1.0), lambda: 0)
    shedder.look(5.0)
    shedder.look(5.0)
    assert shedder.turn_away(0) is None, "one long turn is no overload"
    shedder.look(1.1)
    assert shedder.turn_away(0) == "this instance is too busy"
    shedder.look(0.95)
    assert shedder.turn_away(0) is not None, "it does not flutter at the bound"
    shedder.look(0.5)
    assert shedder.turn_away(0) is None
    assert shedder.shed == {"this instance is too busy": 2}


def test_memory_above_the_bound_turns_calls_away():
    held = [100]
    shedder = LoadShedder(SheddingLimits(max_memory_bytes=100), lambda: held[0])
    seen = []
    for held[0] in (100, 101, 95, 90):
        shedder.look(0.0)
        seen.append(shedder.turn_away(0) is None)
    assert seen == [True, False, False, True]


def test_calls_under_way_are_bounded_where_that_is_configured():
    shedder = LoadShedder(SheddingLimits(max_calls=3), lambda: 0)
    assert shedder.turn_away(2) is None
    assert shedder.turn_away(3) == "too many calls are under way here"


def test_without_bounds_nothing_is_turned_away():
    shedder = LoadShedder(SheddingLimits(), lambda: 1 << 60)
    for _ in range(10):
        shedder.look(100.0)
    assert shedder.turn_away(1_000_000) is None


def test_it_measures_the_loop_it_runs_in():
    async def scenario():
        shedder = LoadShedder(SheddingLimits(max_lag_s=0.05), lambda: 0)
        watching = asyncio.create_task(shedder.watch())
        for _ in range(20):
            # A loop that is never free, as with far more calls than it can serve.
            time.sleep(0.2)
            await asyncio.sleep(0)
            if shedder.reason:
                break
        assert shedder.reason == "this instance is too busy"
        watching.cancel()

    asyncio.run(scenario())


@pytest.mark.parametrize(("text", "found"), [("max", None), ("1073741824", 1 << 30), ("9223372036854771712", None)])
def test_the_control_groups_limit_is_read(tmp_path, monkeypatch, text, found):
    file = tmp_path / "memory.max"
    file.write_text(text + "\n")
    monkeypatch.setattr(health, "_MEMORY_LIMITS", (tmp_path / "none", file))
    assert health.memory_limit_bytes() == found

"""The lane on a real connection: what shares a batch, what a failure means for each in it, and how long they wait."""

import asyncio

import asyncpg
import pytest

from harness.database import LanePut, run_on_lane, table_held, waits_on_the_server
from harness.postgres import shared_server
from tollhouse.errors import BudgetExceeded, EpochLost, InternalError, Unavailable, Undecided
from tollhouse.storage.postgres import lane as lanes


def once(hook):
    """Return a hook that does something the first time only."""
    done: list[bool] = []

    async def doing(connection):
        if not done:
            done.append(True)
            await hook(connection)

    return doing


def raising(error):
    async def hook(_connection):
        raise error

    return hook


# Batches.


def test_what_is_submitted_in_one_turn_of_the_loop_shares_a_batch(url):
    async def scenario(desk):
        names = [f"{number}" for number in range(100)]
        assert await desk.put(*names) == [f"put {name}" for name in names]
        assert [len(batch) for batch in desk.puts.batches] == [100]

    run_on_lane(url, scenario)


def test_what_arrives_while_a_batch_runs_shares_the_next_one(url):
    async def scenario(desk):
        running, go_on = asyncio.Event(), asyncio.Event()

        async def wait(_connection):
            running.set()
            await go_on.wait()

        desk.puts.before = once(wait)
        first = asyncio.create_task(desk.put("a"))
        await running.wait()
        others = [asyncio.create_task(desk.put(name)) for name in "bcd"]
        await asyncio.sleep(0.01)
        assert desk.lane.waiting == 4
        go_on.set()
        await asyncio.gather(first, *others)
        assert desk.puts.batches == [["a"], ["b", "c", "d"]]
        assert desk.lane.waiting == 0

    run_on_lane(url, scenario)


def test_a_batch_has_a_bound_and_so_has_what_waits(url, monkeypatch):
    monkeypatch.setattr(lanes, "_FULL_BATCH", 4)
    monkeypatch.setattr(lanes, "_MAX_WAITING", 10)

    async def scenario(desk):
        futures = [desk.lane.submit(LanePut(f"{number}")) for number in range(10)]
        with pytest.raises(Unavailable, match="too many calls wait"):
            desk.lane.submit(LanePut("one too many"))
        await asyncio.gather(*futures)
        assert [len(batch) for batch in desk.puts.batches] == [4, 4, 2]
        await desk.lane.submit(LanePut("now"))

    run_on_lane(url, scenario)


def test_a_refusal_is_for_one_and_leaves_the_others(url):
    async def scenario(desk):
        refusal = BudgetExceeded("too much")
        operations = LanePut("a"), LanePut("b", refusal=refusal), LanePut("c")
        outcomes = await asyncio.gather(*map(desk.lane.submit, operations), return_exceptions=True)
        assert outcomes == ["put a", refusal, "put c"]
        assert desk.puts.batches == [["a", "b", "c"]]

    run_on_lane(url, scenario)


def test_who_breaks_a_rule_fails_alone(url):
    async def scenario(desk):
        await desk.put("taken")
        outcomes = await desk.put("a", "taken", "b")
        assert [type(outcome) for outcome in outcomes] == [str, InternalError, str]
        assert isinstance(outcomes[1].__cause__, asyncpg.UniqueViolationError)
        assert desk.puts.batches[1:] == [["a", "taken", "b"], ["a"], ["taken"], ["b"]]
        assert desk.written() == ["a", "b", "taken"]

    run_on_lane(url, scenario)


def test_what_the_driver_cannot_send_fails_alone(url):
    async def scenario(desk):
        operations = LanePut("a"), LanePut("b", 7), LanePut("c", "\ud800"), LanePut("d", "\0"), LanePut("e")
        outcomes = await asyncio.gather(*map(desk.lane.submit, operations), return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [str, InternalError, InternalError, InternalError, str]
        assert desk.puts.looks == 0

    run_on_lane(url, scenario)


def test_a_caller_that_no_longer_waits_changes_nothing_for_the_others(url):
    async def scenario(desk):
        gone, other = desk.lane.submit(LanePut("a")), desk.lane.submit(LanePut("b"))
        gone.cancel()
        assert await other == "put b"
        assert desk.puts.lates == []

    run_on_lane(url, scenario)


# What the database says.


@pytest.mark.parametrize("state", ["40001", "40P01", "55P03"])
def test_a_batch_that_met_another_transaction_is_tried_again(url, state):
    async def scenario(desk):
        desk.puts.before = once(raising(asyncpg.PostgresError.new({"C": state, "M": "met another"})))
        assert await desk.put("a") == ["put a"]
        assert desk.puts.batches == [["a"], ["a"]]
        desk.puts.before = raising(asyncpg.PostgresError.new({"C": state, "M": "met another"}))
        assert isinstance((await desk.put("b"))[0], Unavailable)
        assert len(desk.puts.batches) == 2 + 5

    run_on_lane(url, scenario)


def raise_on_the_server(state):
    async def hook(connection):
        await connection.execute(f"DO $$ BEGIN RAISE EXCEPTION 'refused' USING ERRCODE = '{state}'; END $$")

    return hook


def test_a_lost_epoch_is_told_to_all_and_nothing_is_tried_again(url):
    async def scenario(desk):
        desk.puts.before = raise_on_the_server("TH001")
        assert [type(outcome) for outcome in await desk.put("a", "b")] == [EpochLost] * 2
        assert desk.puts.batches == [["a", "b"]]

    run_on_lane(url, scenario)


def test_an_attempt_of_another_epoch_is_told_so_alone(url):
    async def scenario(desk):
        async def refuse_b(connection):
            if "b" in desk.puts.batches[-1]:
                await raise_on_the_server("TH002")(connection)

        desk.puts.before = refuse_b
        outcomes = await desk.put("a", "b", "c")
        assert [type(outcome) for outcome in outcomes] == [str, EpochLost, str]

    run_on_lane(url, scenario)


def test_a_full_disk_is_told_to_all_and_the_connection_stays(url):
    async def scenario(desk):
        connection = desk.lane._connection
        desk.puts.before = raise_on_the_server("53100")
        assert [type(outcome) for outcome in await desk.put("a", "b")] == [Unavailable] * 2
        assert desk.puts.batches == [["a", "b"]]
        assert desk.lane._connection is connection

    run_on_lane(url, scenario)


def test_a_server_that_became_a_standby_is_left_for_the_primary(url):
    async def scenario(desk):
        connection = desk.lane._connection
        await connection.execute("SET default_transaction_read_only = on")
        assert [type(outcome) for outcome in await desk.put("a")] == [Unavailable]
        assert await desk.put("a") == ["put a"]
        assert desk.lane._connection is not connection

    run_on_lane(url, scenario)


# Patience.


def test_whose_batch_takes_too_long_is_told_that_it_is_undecided_and_its_outcome_is_taken_late(url):
    async def scenario(desk):
        async with table_held(desk):
            assert [type(outcome) for outcome in await desk.put("a", "b")] == [Undecided] * 2
            assert desk.puts.lates == []
        await desk.until(lambda: len(desk.puts.lates) == 2)
        assert desk.puts.lates == [("a", "put a"), ("b", "put b")]
        assert desk.written() == ["a", "b"]

    run_on_lane(url, scenario, patience_s=1.0)


def test_a_refusal_can_be_late_too(url):
    async def scenario(desk):
        await desk.put("taken")
        async with table_held(desk):
            assert [type(outcome) for outcome in await desk.put("taken")] == [Undecided]
        await desk.until(lambda: desk.puts.lates)
        ((name, outcome),) = desk.puts.lates
        assert (name, type(outcome)) == ("taken", InternalError)

    run_on_lane(url, scenario, patience_s=1.0)


def test_what_has_not_begun_in_time_never_does(url):
    async def scenario(desk):
        async with table_held(desk):
            first = asyncio.create_task(desk.put("a"))
            await waits_on_the_server(desk)
            assert [type(outcome) for outcome in await desk.put("b")] == [Unavailable]
        assert [type(outcome) for outcome in await first] == [Undecided]
        await desk.until(lambda: desk.puts.lates)
        assert await desk.put("c") == ["put c"]
        assert desk.puts.batches == [["a"], ["c"]]
        assert desk.puts.lates == [("a", "put a")]

    run_on_lane(url, scenario, patience_s=1.0)


# The end.


def test_closing_carries_out_what_waits_and_takes_no_more(url):
    async def scenario(desk):
        waiting = [desk.lane.submit(LanePut(name)) for name in "abc"]
        await desk.lane.close()
        assert await asyncio.gather(*waiting) == ["put a", "put b", "put c"]
        with pytest.raises(Unavailable, match="is stopping"):
            desk.lane.submit(LanePut("d"))
        await desk.until(lambda: not shared_server().connections(desk.name))

    run_on_lane(url, scenario)


def test_closing_waits_for_no_database_for_longer_than_its_patience(url):
    async def scenario(desk):
        desk.is_away = True
        desk.break_connection()
        await desk.until(lambda: not desk.lane.is_connected)
        waiting = desk.lane.submit(LanePut("a"))
        await desk.lane.close()
        with pytest.raises(Unavailable):
            await waiting
        assert desk.puts.batches == []

    run_on_lane(url, scenario, patience_s=0.5)


def test_closing_tells_whose_batch_does_not_end(url):
    async def scenario(desk):
        async with table_held(desk):
            running = desk.lane.submit(LanePut("a"))
            await waits_on_the_server(desk)
            await desk.lane.close()
            with pytest.raises(Unavailable):
                await running

    run_on_lane(url, scenario, patience_s=0.5)

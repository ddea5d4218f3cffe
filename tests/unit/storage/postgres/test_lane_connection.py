"""The lane on a real connection, which is broken wherever it can break: nothing is lost, and nothing done twice."""

import asyncio

import asyncpg
import pytest

from harness.database import LaneDesk, LanePut, LaneTry, run_on_lane, table_held, terminate, waits_on_the_server
from harness.postgres import shared_server
from tollhouse.errors import Unavailable


def once(hook):
    """Return a hook that does something the first time only."""
    done: list[bool] = []

    async def doing(connection):
        if not done:
            done.append(True)
            await hook(connection)

    return doing


async def end_backend(connection):
    terminate(connection)


async def lose_the_answer(connection):
    terminate(connection)
    raise asyncpg.ConnectionDoesNotExistError("connection was closed in the middle of operation")


def test_a_batch_that_did_not_arrive_is_carried_out_on_the_next_connection(url):
    async def scenario(desk):
        desk.puts.before = once(end_backend)
        assert await desk.put("a", "b") == ["put a", "put b"]
        assert desk.puts.looks == 1
        assert desk.written() == ["a", "b"]

    run_on_lane(url, scenario)


def test_a_batch_whose_answer_was_lost_is_found_and_not_carried_out_again(url):
    async def scenario(desk):
        desk.puts.after = once(lose_the_answer)
        assert await desk.put("a", "b") == ["found a", "found b"]
        assert desk.puts.batches == [["a", "b"]]
        assert desk.written() == ["a", "b"]

    run_on_lane(url, scenario)


def test_a_server_process_that_ends_in_the_middle_has_written_nothing(url):
    async def scenario(desk):
        async with table_held(desk):
            putting = asyncio.create_task(desk.put("a"))
            await waits_on_the_server(desk)
            desk.break_connection()
            await desk.until(lambda: len(desk.puts.batches) == 2)
        assert await putting == ["put a"]
        assert desk.written() == ["a"]

    run_on_lane(url, scenario)


def test_a_server_process_that_does_not_know_yet_is_ended_before_anybody_looks(url):
    """It would commit after the look that found nothing, and the batch be carried out twice."""

    async def scenario(desk):
        async with table_held(desk):
            putting = asyncio.create_task(desk.put("a"))
            await waits_on_the_server(desk)
            pid = desk.lane._connection.get_server_pid()
            desk.lane._connection._transport.abort()
            await desk.until(lambda: desk.puts.looks == 1)
            assert pid not in shared_server().backend_pids(desk.name)
        assert await putting == ["put a"]
        assert desk.written() == ["a"]

    run_on_lane(url, scenario)


def test_a_process_of_another_connection_with_the_same_number_is_left_alone(url):
    async def scenario(desk):
        bystander = await asyncpg.connect(desk.url)
        desk.lane._backend = (bystander.get_server_pid(), "2020-01-01 00:00:00+00")
        desk.break_connection()
        await desk.until(lambda: desk.lane.is_connected and not desk.lane._connection.is_closed())
        assert await desk.put("a") == ["put a"]
        assert await bystander.fetchval("SELECT 1") == 1
        await bystander.close()

    run_on_lane(url, scenario)


def test_looking_goes_on_until_there_is_an_answer(url):
    async def scenario(desk):
        desk.puts.after = once(lose_the_answer)
        desk.puts.before_look = once(end_backend)
        assert await desk.put("a") == ["found a"]
        assert desk.puts.looks == 2

    run_on_lane(url, scenario)


def test_who_does_not_wait_for_a_connection_is_told_that_nothing_was_changed_or_what_was(url):
    async def scenario(desk):
        desk.tries.before = once(end_backend)
        assert [type(outcome) for outcome in await desk.put("a", of=LaneTry)] == [Unavailable]
        desk.tries.after = once(lose_the_answer)
        assert await desk.put("b", of=LaneTry) == ["found b"]
        assert desk.tries.batches == [["a"], ["b"]]
        assert desk.written() == ["b"]

    run_on_lane(url, scenario)


def test_while_there_is_no_connection_some_are_refused_at_once_and_others_wait(url):
    async def scenario(desk):
        desk.is_away = True
        desk.break_connection()
        await desk.until(lambda: not desk.lane.is_connected)
        with pytest.raises(Unavailable, match="cannot be written just now"):
            desk.lane.submit(LaneTry("a"))
        waiting = desk.lane.submit(LanePut("b"))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        desk.is_away = False
        assert await waiting == "put b"
        assert await desk.put("c", of=LaneTry) == ["put c"]

    run_on_lane(url, scenario)


def test_a_connection_that_breaks_while_nothing_runs_is_made_again_before_it_is_needed(url):
    async def scenario(desk):
        before = desk.lane._connection
        desk.break_connection()
        await desk.until(lambda: desk.lane._connection not in {None, before})
        assert desk.puts.batches == []
        assert await desk.put("a", of=LaneTry) == ["put a"]

    run_on_lane(url, scenario)


def test_the_servers_last_words_just_before_a_batch_lose_nothing(url):
    """The loop was held up: the end of the connection and the batch are met at once."""

    async def scenario(desk):
        names = [f"{number}" for number in range(10)]
        for name in names:
            desk.break_connection()
            assert await desk.put(name) in ([f"put {name}"], [f"found {name}"])
        assert desk.written() == names

    run_on_lane(url, scenario)


def test_the_first_connection_has_to_be_there(url):
    async def main():
        desk = LaneDesk(url)
        desk.is_away = True
        with pytest.raises(ConnectionRefusedError):
            await desk.open(1.0)
        await desk.lane.close()

    asyncio.run(main())

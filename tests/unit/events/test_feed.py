import asyncio
from contextlib import asynccontextmanager

import pytest

from harness.books import run_on_books
from tollhouse.errors import EventsGone, Unavailable
from tollhouse.events import feed as module
from tollhouse.events import outbox, store
from tollhouse.events.feed import Feed
from tollhouse.events.model import Event, NewEvent, Selection
from tollhouse.events.order import place_all

LATER = "2027-01-01T00:00:00.000Z"
ALL = Selection(has_untenanted=True)
OF_42 = Selection(tenants=frozenset({"42"}))
AT_ONCE_S = 0.05
# Enough for a busy machine; whatever comes, comes long before.
SOON_S = 20


def new(subject="job_1", tenant_id="42", user_id="101"):
    return NewEvent("ai.job.completed", tenant_id, user_id, subject, {}, 1_775_000_000_123)


async def write(books, *subjects, tenant_id="42"):
    events = [new(str(subject), tenant_id) for subject in subjects]
    await books.database.write(lambda connection: outbox.append_all(connection, events))


@asynccontextmanager
async def reading(books, **changes):
    feed = Feed(books.database, gives_places=books.membership is not None, **{"poll_s": 0.002, **changes})
    task = asyncio.create_task(feed.keep_reading())
    try:
        yield feed
    finally:
        task.cancel()
        await asyncio.wait({task})


async def take(follower, count):
    """Return the subjects of the next events, which have to be so many."""
    subjects: list[str] = []
    while len(subjects) < count:
        events = await follower.take(SOON_S)
        assert events, f"after {subjects}"
        subjects += [event.subject for event in events]
    assert len(subjects) == count
    return subjects


async def nothing_more(follower):
    return await follower.take(AT_ONCE_S) == ()


def test_what_comes_is_given_to_whoever_it_concerns(tmp_path):
    async def scenario(books):
        await write(books, "before")
        async with reading(books) as feed:
            with await feed.follow(ALL, None) as everybody, await feed.follow(OF_42, None) as tenant:
                await write(books, "a", tenant_id="43")
                await write(books, "b")
                assert await take(everybody, 2) == ["a", "b"]
                assert await take(tenant, 1) == ["b"]
                assert await nothing_more(tenant)
                assert (everybody.position, tenant.position) == (3, 3)

    run_on_books(tmp_path, scenario)


def test_a_follower_goes_on_from_where_it_was(tmp_path):
    async def scenario(books):
        await write(books, *range(1, 8))
        async with reading(books) as feed:
            with await feed.follow(OF_42, 4) as follower:
                assert await take(follower, 3) == ["5", "6", "7"]
                await write(books, 8, 9)
                assert await take(follower, 2) == ["8", "9"]
                assert await nothing_more(follower)
            with await feed.follow(OF_42, follower.position) as again:
                assert await nothing_more(again)
            with await feed.follow(OF_42, 0) as all_of_it:
                assert await take(all_of_it, 9) == [str(number) for number in range(1, 10)]

    run_on_books(tmp_path, scenario)


def test_events_before_the_first_follower_and_between_two_are_not_missed(tmp_path):
    async def scenario(books):
        async with reading(books) as feed:
            with await feed.follow(OF_42, None) as follower:
                assert await nothing_more(follower)
                position = follower.position
            await write(books, "meanwhile")
            assert feed.followers == 0
            with await feed.follow(OF_42, position) as follower:
                assert await take(follower, 1) == ["meanwhile"]

    run_on_books(tmp_path, scenario)


def test_who_does_not_take_costs_no_memory_and_misses_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_MOST_WAITING", 3)
    monkeypatch.setattr(module, "_PAGE", 4)

    async def scenario(books):
        async with reading(books) as feed:
            with await feed.follow(OF_42, None) as slow, await feed.follow(OF_42, None) as quick:
                assert await nothing_more(slow)
                for first in range(0, 30, 10):
                    await write(books, *range(first, first + 10))
                    assert await take(quick, 10) == [str(number) for number in range(first, first + 10)]
                assert len(slow._waiting) <= 3
                assert await take(slow, 30) == [str(number) for number in range(30)]
                await write(books, "last")
                assert await take(slow, 1) == ["last"]

    run_on_books(tmp_path, scenario)


def test_a_position_whose_events_are_gone_is_told_so(tmp_path):
    async def scenario(books):
        await write(books, *range(1, 6))
        await place_all(books.database)
        await books.database.write(lambda connection: store.forget(connection, before=LATER, at_most=3))
        async with reading(books) as feed:
            with pytest.raises(EventsGone, match=r"events after position 2 are no longer kept.* position 3\."):
                await feed.follow(OF_42, 2)
            with await feed.follow(OF_42, 3) as follower:
                assert await take(follower, 2) == ["4", "5"]
            with await feed.follow(OF_42, 0) as follower:
                assert await take(follower, 2) == ["4", "5"]
            with pytest.raises(EventsGone, match="there is no position 6 yet: the newest event is at 5"):
                await feed.follow(OF_42, 6)

    run_on_books(tmp_path, scenario)


def test_who_is_so_slow_that_events_are_deleted_before_they_are_read_is_told_so(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_PAGE", 2)

    async def scenario(books):
        await write(books, *range(1, 7))
        await place_all(books.database)
        async with reading(books) as feed:
            with await feed.follow(OF_42, 0) as follower:
                assert [event.subject for event in await follower.take(SOON_S)] == ["1", "2"]
                await books.database.write(lambda connection: store.forget(connection, before=LATER, at_most=4))
                with pytest.raises(EventsGone, match="events after position 2 are no longer kept"):
                    await follower.take(SOON_S)

    run_on_books(tmp_path, scenario)


def test_a_feed_that_closes_ends_its_followers_and_takes_no_more(tmp_path):
    async def scenario(books):
        async with reading(books) as feed:
            with await feed.follow(OF_42, None) as follower:
                taking = asyncio.create_task(follower.take(SOON_S))
                await asyncio.sleep(AT_ONCE_S)
                feed.close()
                assert await taking == ()
                assert follower.is_closed
            with pytest.raises(Unavailable, match="the service is stopping"):
                await feed.follow(OF_42, None)

    run_on_books(tmp_path, scenario)


def test_a_database_that_cannot_be_read_for_a_while_loses_no_event(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_AGAIN_S", 0.01)

    async def scenario(books):
        async with reading(books) as feed:
            with await feed.follow(OF_42, None) as follower:
                assert await nothing_more(follower)
                read, failures = books.database.read, 0

                async def fail(work):
                    nonlocal failures
                    failures += 1
                    raise Unavailable("the database cannot be read")

                books.database.read = fail
                await write(books, "a")
                while failures < 5:
                    await asyncio.sleep(0.005)
                assert await nothing_more(follower)
                books.database.read = read
                await write(books, "b")
                assert await take(follower, 2) == ["a", "b"]

    run_on_books(tmp_path, scenario)


def test_many_writers_and_followers_who_come_and_go_miss_nothing_and_get_nothing_twice(tmp_path, monkeypatch):
    """Each follower reads on from its last position, on two feeds as two processes have them."""
    monkeypatch.setattr(module, "_MOST_WAITING", 5)
    monkeypatch.setattr(module, "_PAGE", 7)
    writers, each = 6, 25

    async def scenario(books):
        async def tell(writer):
            for number in range(each):
                await write(books, f"{writer}.{number}")

        async def follow(feeds, number):
            got: list[Event] = []
            position = 0
            while len(got) < writers * each:
                with await feeds[number % 2].follow(OF_42, position) as follower:
                    for _ in range(number + 1):
                        got += (taken := await follower.take(AT_ONCE_S))
                        if not taken:
                            break
                    position = follower.position
            return got

        async with (
            reading(books) as one,
            reading(books) as other,
            asyncio.timeout(SOON_S),
            asyncio.TaskGroup() as tasks,
        ):
            for writer in range(writers):
                tasks.create_task(tell(writer))
            followers = [tasks.create_task(follow((one, other), number)) for number in range(6)]
        for follower in followers:
            events = follower.result()
            assert [event.position for event in events] == list(range(1, writers * each + 1))
            for writer in range(writers):
                theirs = [event.subject for event in events if event.subject.startswith(f"{writer}.")]
                assert theirs == [f"{writer}.{number}" for number in range(each)]

    run_on_books(tmp_path, scenario)


def test_who_knows_more_than_the_feed_has_read_is_not_told_it_again(tmp_path):
    """It was told by another process, whose feed looks at other moments."""

    async def scenario(books):
        feed = Feed(books.database, gives_places=books.membership is not None, poll_s=1)
        feed._is_live.set()
        await write(books, "a", "b")
        with await feed.follow(OF_42, 1) as follower:
            assert feed.position == 0
            assert await nothing_more(follower)
            await feed._read_on()
            assert await take(follower, 1) == ["b"]

    run_on_books(tmp_path, scenario)


def test_a_feed_that_a_defect_ended_misses_nothing_once_it_is_begun_again(tmp_path):
    async def scenario(books):
        feed = Feed(books.database, gives_places=books.membership is not None, poll_s=0.002)
        sound, is_broken = feed._look, asyncio.Event()

        def look(connection):
            if is_broken.is_set():
                raise ValueError("a defect")
            return sound(connection)

        feed._look = look  # type: ignore[method-assign]
        first = asyncio.create_task(feed.keep_reading())
        with await feed.follow(OF_42, None) as follower:
            await write(books, "a")
            assert await take(follower, 1) == ["a"]
            is_broken.set()
            with pytest.raises(ValueError, match="a defect"):
                await first
            await write(books, "b", "c")
            is_broken.clear()
            second = asyncio.create_task(feed.keep_reading())
            assert await take(follower, 2) == ["b", "c"]
            await write(books, "d")
            assert await take(follower, 1) == ["d"]
            second.cancel()
            await asyncio.wait({second})

    run_on_books(tmp_path, scenario)

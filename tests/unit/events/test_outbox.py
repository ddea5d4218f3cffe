import json

import pytest
import sqlalchemy as sa

from harness.books import run_on_books
from tollhouse.events import outbox, store
from tollhouse.events.model import MAX_DATA_BYTES, Event, Head, NewEvent, Selection
from tollhouse.events.order import place_all
from tollhouse.events.retention import forget_old
from tollhouse.storage.event_schema import ai_events

NOW_MS = 1_775_000_000_123
ALL = Selection(has_untenanted=True)


def new(subject="job_1", *, kind="ai.job.completed", tenant_id="42", user_id="101", **data):
    return NewEvent(kind, tenant_id, user_id, subject, data, NOW_MS)


async def write(books, *events):
    await books.database.write(lambda connection: outbox.append_all(connection, events))
    await place_all(books.database)


async def following(books, selection=ALL, after=0, through=None, limit=100):
    return await books.database.read(
        lambda connection: store.following(connection, selection, after=after, through=through, limit=limit)
    )


def test_an_event_is_read_as_it_was_written(tmp_path):
    async def scenario(books):
        await write(books, new(cost_usd=0.5, name="Zürich"))
        (event,) = await following(books)
        assert event == Event(
            1,
            event.event_id,
            "ai.job.completed",
            "42",
            "101",
            "job_1",
            '{"cost_usd":0.5,"name":"Zürich"}',
            "2026-03-31T23:33:20.123Z",
        )
        assert event.event_id.startswith("evt_")

    run_on_books(tmp_path, scenario)


def test_events_stand_in_the_order_in_which_they_were_written(tmp_path):
    async def scenario(books):
        await write(books)
        await write(books, *(new(f"job_{number}") for number in range(3)))
        await write(books, new("job_3"), new("job_4"))
        found = await following(books)
        assert [event.position for event in found] == [1, 2, 3, 4, 5]
        assert [event.subject for event in found] == [f"job_{number}" for number in range(5)]
        assert len({event.event_id for event in found}) == 5
        assert await books.database.read(store.head) == Head(5, 0)

    run_on_books(tmp_path, scenario)


def test_an_event_is_undone_with_what_it_tells_of(tmp_path):
    async def scenario(books):
        def work(connection):
            outbox.append(connection, new("undone"))
            raise ValueError("the change fails")

        with pytest.raises(ValueError, match="the change fails"):
            await books.database.write(work)
        await write(books, new("kept"))
        assert [(event.position, event.subject) for event in await following(books)] == [(1, "kept")]

    run_on_books(tmp_path, scenario)


def test_data_that_is_too_large_for_an_event_is_left_out_of_it(tmp_path):
    """It must not undo what it tells of."""

    async def scenario(books):
        room = MAX_DATA_BYTES - len(json.dumps({"text": ""}, separators=(",", ":")))
        await write(books, new(text="x" * room))
        await write(books, new(text="x" * (room + 1)))
        whole, without = await following(books)
        assert len(whole.data) == MAX_DATA_BYTES
        assert json.loads(without.data) == {"is_omitted": True, "bytes": 16385, "bytes_max": 16384}
        assert without.subject == "job_1"

    run_on_books(tmp_path, scenario)


@pytest.mark.parametrize(
    ("selection", "positions"),
    [
        (ALL, [1, 2, 3, 4, 5]),
        (Selection(), [1, 2, 3, 4]),
        (Selection(tenants=frozenset({"42"})), [1, 2, 4]),
        (Selection(tenants=frozenset({"42", "43"})), [1, 2, 3, 4]),
        (Selection(tenants=frozenset({"42"}), user_id="101"), [1, 4]),
        (Selection(user_id="101"), [1, 3, 4]),
        (Selection(types=frozenset({"b", "c"})), [2, 4]),
        (Selection(tenants=frozenset()), []),
        (Selection(tenants=frozenset({""})), [5]),
    ],
)
def test_a_reader_gets_what_was_selected_from_the_table_as_from_memory(tmp_path, selection, positions):
    async def scenario(books):
        await write(
            books,
            new(kind="a"),
            new(kind="b", user_id=""),
            new(kind="a", tenant_id="43"),
            new(kind="c"),
            new(kind="a", tenant_id="", user_id=""),
        )
        assert [event.position for event in await following(books, selection)] == positions
        assert [event.position for event in await following(books) if selection.takes(event)] == positions

    run_on_books(tmp_path, scenario)


def test_events_are_read_in_pages(tmp_path):
    async def scenario(books):
        await write(books, *(new(f"job_{number}") for number in range(1, 10)))

        async def positions(**page):
            return [event.position for event in await following(books, **page)]

        assert await positions(limit=3) == [1, 2, 3]
        assert await positions(limit=3, after=7) == [8, 9]
        assert await positions(after=2, through=4) == [3, 4]
        assert await positions(after=9) == []

    run_on_books(tmp_path, scenario)


def test_old_events_are_forgotten_in_their_order_and_their_places_are_never_given_again(tmp_path):
    async def scenario(books):
        times = [1_000, 2_000, 60_000, 3_000, 90_000]
        events = [NewEvent("a", "42", "", f"job_{at}", {}, at) for at in times]
        await write(books, *events)

        async def forget(before):
            return await books.database.write(lambda connection: store.forget(connection, before=before, at_most=2))

        assert await forget("1970-01-01T00:00:01.000Z") == 0
        assert await forget("1970-01-01T00:00:30.000Z") == 2
        # The one that is older than the one before it stays for as long as that one: no hole is left behind.
        assert await forget("1970-01-01T00:00:30.000Z") == 0
        assert [event.position for event in await following(books)] == [3, 4, 5]
        assert await books.database.read(store.head) == Head(5, 2)
        assert await forget("1970-01-02T00:00:00.000Z") == 2
        assert await forget("1970-01-02T00:00:00.000Z") == 1
        await write(books, new("next"))
        assert [(event.position, event.subject) for event in await following(books)] == [(6, "next")]
        assert await books.database.read(store.head) == Head(6, 5)

    run_on_books(tmp_path, scenario)


@pytest.mark.engine("postgresql")
def test_what_is_committed_late_is_read_after_what_was_read_before_it(tmp_path, engine):
    """Ids are drawn in one order and committed in another: who reads meanwhile misses nothing."""

    async def scenario(books):
        await write(books, new("first"))
        url = books.database._url.replace("postgresql:", "postgresql+psycopg:")
        other = sa.create_engine(url)
        with other.connect() as late:
            outbox.append(late, new("late"))
            await write(books, new("early"))
            assert [(event.position, event.subject) for event in await following(books)] == [(1, "first"), (2, "early")]
            late.commit()
        await place_all(books.database)
        assert [(event.position, event.subject) for event in await following(books, after=2)] == [(3, "late")]
        ids = await books.database.read(
            lambda connection: list(connection.scalars(sa.select(ai_events.c.id).order_by(ai_events.c.position)))
        )
        assert ids != sorted(ids)
        other.dispose()

    run_on_books(tmp_path, scenario)


@pytest.mark.engine("postgresql")
def test_places_are_given_by_one_at_a_time_and_the_others_do_not_wait(tmp_path, engine):
    async def scenario(books):
        await write(books, new("first"))
        other = sa.create_engine(books.database._url.replace("postgresql:", "postgresql+psycopg:"))
        await books.database.write(lambda connection: outbox.append(connection, new("second")))
        with other.connect() as busy:
            busy.execute(sa.text("SELECT 1 FROM ai_event_head FOR UPDATE"))
            await place_all(books.database)
            assert len(await following(books)) == 1
            busy.rollback()
        await place_all(books.database)
        assert [event.subject for event in await following(books)] == ["first", "second"]
        other.dispose()

    run_on_books(tmp_path, scenario)


def test_events_that_nobody_has_read_are_forgotten_in_time_too(tmp_path):
    async def scenario(books):
        old, now_ms = books.clock.now_ms() - 8 * 86_400_000, books.clock.now_ms()
        events = [NewEvent("a", "42", "", str(at), {}, at) for at in (old, old, now_ms)]
        await books.database.write(lambda connection: outbox.append_all(connection, events))
        gives_places = books.membership is not None
        assert await forget_old(books.database, books.clock, 7, gives_places=gives_places) == 2
        assert [event.subject for event in await following(books)] == [str(now_ms)]
        assert await books.database.read(store.head) == Head(3, 2)

    run_on_books(tmp_path, scenario)

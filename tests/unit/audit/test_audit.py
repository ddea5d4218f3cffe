import pytest

from harness.books import run_on_books
from tollhouse.audit import store
from tollhouse.audit.model import AuditEntry
from tollhouse.audit.service import AuditLog
from tollhouse.events import store as events
from tollhouse.events.model import Selection
from tollhouse.events.order import place_all

NOW = "2026-04-10T12:00:00.000Z"


def entry(action, tenant_id="42", **states):
    return AuditEntry(NOW, "key_1", action, tenant_id, "target", **states)


def page(books, **filters):
    wanted = {"tenant_id": None, "action": None, "before_id": None, "limit": 10} | filters
    return books.database.read(lambda connection: store.page(connection, **wanted))


def test_entries_come_back_as_they_were_written_newest_first(tmp_path):
    entries = [
        entry("tenant.created", before=None, after={"budget_nano_usd": 2**53 + 1, "name": "Zürich"}),
        entry("tenant.updated", before={"a": [1, None, "x"]}, after={}),
        entry("budget.removed", before={"cap_nano_usd": 0}, after=None),
    ]

    async def scenario(books):
        await books.database.write(lambda connection: store.append_all(connection, entries))
        await books.database.write(lambda connection: store.append_all(connection, []))
        assert [found for _, found in await page(books)] == entries[::-1]

    run_on_books(tmp_path, scenario)


@pytest.mark.parametrize(
    ("filters", "ids"),
    [
        ({}, [5, 4, 3, 2, 1]),
        ({"limit": 2}, [5, 4]),
        ({"limit": 2, "before_id": 4}, [3, 2]),
        ({"tenant_id": "43"}, [5, 3, 1]),
        ({"action": "b"}, [5, 4]),
        ({"tenant_id": "43", "action": "b"}, [5]),
        ({"tenant_id": ""}, []),
        ({"before_id": 1}, []),
    ],
)
def test_entries_are_paged_and_filtered(tmp_path, filters, ids):
    async def scenario(books):
        for action, tenant_id in [("a", "43"), ("a", "42"), ("a", "43"), ("b", "42"), ("b", "43")]:
            made = entry(action, tenant_id)
            await books.database.write(lambda connection, made=made: store.append(connection, made))
        assert [entry_id for entry_id, _ in await page(books, **filters)] == ids

    run_on_books(tmp_path, scenario)


def test_an_entry_is_undone_with_the_change_it_tells_of(tmp_path):
    async def scenario(books):
        def work(connection):
            store.append(connection, entry("tenant.updated"))
            raise ValueError("the change fails")

        with pytest.raises(ValueError, match="the change fails"):
            await books.database.write(work)
        assert await page(books) == []

    run_on_books(tmp_path, scenario)


def test_what_the_service_did_by_itself_is_recorded_with_its_time(tmp_path):
    async def scenario(books):
        log = AuditLog(books.database, books.clock)
        await log.record("provider.switched", tenant_id="42", target="req_1", before={"a": 1}, after={"b": 2})
        (_, found), *_ = await page(books)
        assert found == AuditEntry(NOW, "system", "provider.switched", "42", "req_1", {"a": 1}, {"b": 2})

    run_on_books(tmp_path, scenario)


def test_what_others_should_know_of_is_told_as_an_event_in_the_same_transaction(tmp_path):
    async def scenario(books):
        log = AuditLog(books.database, books.clock)
        await log.record("provider.switched", tenant_id="42", target="req_1", before={"a": 1}, after={"b": 2})
        await log.record("webhook.updated", tenant_id="42", target="42", before=None, after=None)
        await place_all(books.database)
        (event,) = await books.database.read(
            lambda connection: events.following(connection, Selection(), after=0, limit=9)
        )
        assert (event.type, event.tenant_id, event.subject) == ("ai.provider.switched", "42", "req_1")
        assert (event.data, event.created_at) == ('{"before":{"a":1},"after":{"b":2}}', NOW)

    run_on_books(tmp_path, scenario)

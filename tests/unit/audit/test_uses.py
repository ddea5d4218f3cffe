"""Notable uses of keys: told at once, then counted, and never more than an attack is worth."""

import asyncio
from typing import Final

import pytest
import sqlalchemy as sa

from harness.books import run_on_books, run_on_two
from harness.database import read_only
from tollhouse.audit import store, uses
from tollhouse.audit.uses import NotableUses
from tollhouse.keys import store as keys
from tollhouse.keys.model import ServiceKey

REVOKED: Final = "key.used_after_revocation"
FOREIGN: Final = "key.used_for_foreign_tenant"
FIRST: Final = "key.first_used"
ADMIN: Final = "admin_key.used"


def noting(books):
    return NotableUses(books.database, books.clock, keys.mark_used)


async def entries(books):
    found = await books.database.read(
        lambda connection: store.page(connection, tenant_id=None, action=None, before_id=None, limit=1000)
    )
    return [(entry.action, entry.actor, entry.tenant_id, entry.after) for _, entry in reversed(found)]


async def write(noted):
    await noted._write_or_tell(noted._due())


def test_the_first_use_is_told_at_once_and_an_hour_of_further_ones_in_one_entry(tmp_path):
    async def scenario(books):
        noted = noting(books)
        noted.note(REVOKED, "key_1", address="10.0.0.1")
        await write(noted)
        since = "2026-04-10T12:00:00.000Z"
        first = (REVOKED, "key_1", "", {"uses": 1, "since": since, "addresses": ["10.0.0.1"]})
        assert await entries(books) == [first]
        books.clock.advance(60)
        for n in range(1000):
            noted.note(REVOKED, "key_1", address=f"10.0.0.{n % 3}")
            await write(noted)
        assert await entries(books) == [first]
        books.clock.advance(3600)
        await write(noted)
        gathered = {
            "uses": 1000,
            "since": "2026-04-10T12:01:00.000Z",
            "addresses": ["10.0.0.0", "10.0.0.1", "10.0.0.2"],
        }
        assert await entries(books) == [first, (REVOKED, "key_1", "", gathered)]
        # After an hour without any, all is forgotten, and the next one is told at once again.
        books.clock.advance(3600)
        await write(noted)
        assert noted._counted == {}
        noted.note(REVOKED, "key_1")
        await write(noted)
        assert len(await entries(books)) == 3

    run_on_books(tmp_path, scenario)


def test_of_many_tenants_and_addresses_the_first_few_are_named(tmp_path):
    async def scenario(books):
        noted = noting(books)
        noted.note(FOREIGN, "key_1", tenant_id="43", address="a")
        noted.note(FOREIGN, "key_2", tenant_id="43")
        noted.note(FOREIGN, "key_2", tenant_id="44")
        for n in range(5000):
            noted.note(FOREIGN, "key_3", tenant_id=str(n))
        await write(noted)
        one, two, many = await entries(books)
        assert (one[2], one[3]["tenants"], one[3]["addresses"]) == ("43", ["43"], ["a"])
        assert (two[2], two[3]["tenants"], two[3]["uses"]) == ("", ["43", "44"], 2)
        assert (many[3]["uses"], len(many[3]["tenants"]), many[3]["more_unnamed"]) == (5000, 10, True)
        assert "more_unnamed" not in two[3]

    run_on_books(tmp_path, scenario)


def test_the_admin_key_is_told_of_from_each_new_address(tmp_path):
    async def scenario(books):
        noted = noting(books)
        for address in ("10.0.0.1", "10.0.0.1", "10.9.9.9"):
            noted.note(ADMIN, "admin", address=address)
        await write(noted)
        assert [(told[3]["addresses"], told[3]["uses"]) for told in await entries(books)] == [
            (["10.0.0.1"], 2),
            (["10.9.9.9"], 1),
        ]

    run_on_books(tmp_path, scenario)


def test_however_many_keys_are_used_a_minute_has_its_bound_and_none_is_forgotten(tmp_path, monkeypatch):
    monkeypatch.setattr(uses, "_MOST_A_MINUTE", 5)
    monkeypatch.setattr(uses, "_MOST_COUNTED", 12)

    async def scenario(books):
        noted = NotableUses(books.database, books.clock, keys.mark_used)
        for n in range(20):
            noted.note(REVOKED, f"key_{n}")
        written = []
        for _ in range(3):
            for _ in range(3):
                await write(noted)
            written.append(len(await entries(books)))
            books.clock.advance(60)
        assert written == [5, 10, 13]
        told = {key_id: after["uses"] for _, key_id, _, after in await entries(books)}
        assert told == {f"key_{n}": 1 for n in range(12)} | {"others": 8}

    run_on_books(tmp_path, scenario)


def test_a_database_that_is_away_loses_no_count(tmp_path):
    async def scenario(books):
        noted = noting(books)
        noted.note(FOREIGN, "key_1", tenant_id="43", address="a")
        async with read_only(books.database):
            await write(noted)
            noted.note(FOREIGN, "key_1", tenant_id="44")
            await write(noted)
        await write(noted)
        ((*_, after),) = await entries(books)
        assert (after["uses"], after["tenants"], after["since"]) == (2, ["43", "44"], "2026-04-10T12:00:00.000Z")

    run_on_books(tmp_path, scenario)


def test_what_was_counted_is_written_when_the_process_ends(tmp_path):
    async def scenario(books):
        noted = noting(books)
        noted.note(REVOKED, "key_1")
        await write(noted)
        noted.note(REVOKED, "key_1")
        await noted.flush()
        await noted.flush()
        assert [after["uses"] for *_, after in await entries(books)] == [1, 1]

    run_on_books(tmp_path, scenario)


def test_it_writes_by_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(uses, "_WRITE_EVERY_S", 0.001)

    async def scenario(books):
        noted = noting(books)
        writing = asyncio.create_task(noted.keep_writing())
        noted.note(REVOKED, "key_1")
        async with asyncio.timeout(20):
            while not await entries(books):
                await asyncio.sleep(0.001)
        writing.cancel()

    run_on_books(tmp_path, scenario)


def add_key(connection):
    keys.add(connection, ServiceKey("key_1", "s", "service", None, "", "00", "2026-04-01T00:00:00.000Z", None))


def first_used(connection):
    return connection.execute(sa.text("SELECT first_used_at FROM ai_service_keys")).scalars().all()


def test_a_first_use_is_entered_once_and_marked_with_the_key(tmp_path):
    async def scenario(books):
        await books.database.write(add_key)
        for _ in range(2):
            noted = noting(books)
            noted.note(FIRST, "key_1")
            await write(noted)
            books.clock.advance(10)
        assert [told[:2] for told in await entries(books)] == [(FIRST, "key_1")]
        assert await books.database.read(first_used) == ["2026-04-10T12:00:00.000Z"]

    run_on_books(tmp_path, scenario)


@pytest.mark.engine("postgresql")
def test_of_two_instances_that_see_a_new_key_one_tells_of_it(tmp_path):
    async def scenario(one, other):
        await one.database.write(add_key)
        seen = [noting(one), noting(other)]
        for noted in seen:
            noted.note(FIRST, "key_1")
        await asyncio.gather(*map(write, seen))
        assert len(await entries(one)) == 1

    run_on_two(tmp_path, scenario)

"""An instance that leaves: what it has left nothing of is stopped, and anything else is the others' to hold."""

import asyncio

import msgspec
import pytest
import sqlalchemy as sa

from harness.books import open_books
from tollhouse.budgets import store as budgets
from tollhouse.errors import EpochLost
from tollhouse.gate.admission import Admission
from tollhouse.idempotency.model import claim
from tollhouse.storage.schema import ai_instances

pytestmark = [pytest.mark.usefixtures("on_each_engine"), pytest.mark.engine("postgresql")]


async def states(books):
    rows = await books.database.read(
        lambda connection: connection.execute(sa.select(ai_instances.c.state).order_by(ai_instances.c.epoch)).all()
    )
    return [row.state for row in rows]


def run(tmp_path, scenario):
    """Run a scenario on two instances of one database."""

    async def main():
        async with open_books(tmp_path / "db") as leaving, open_books(tmp_path / "db") as staying:
            await staying.set_tenant()
            await scenario(leaving, staying)

    asyncio.run(main())


def test_who_has_ended_all_it_began_is_stopped_and_may_do_nothing_more(tmp_path):
    async def scenario(leaving, staying):
        await leaving.ledger.release(await leaving.reserve())
        await leaving.membership.leave()
        assert await states(staying) == ["stopped", "live"]
        with pytest.raises(EpochLost):
            await leaving.reserve()
        assert await staying.reservations() == {}

    run(tmp_path, scenario)


def test_who_leaves_a_call_under_way_is_not_stopped_so_that_others_will_hold_it(tmp_path):
    async def scenario(leaving, staying):
        made = await leaving.reserve()
        await leaving.membership.leave()
        assert await states(staying) == ["live", "live"]
        await staying.database.write(
            lambda connection: connection.execute(sa.text("SELECT ai_declare_lost(1, 0, '2026-04-10')")).scalar()
        )
        assert await staying.ledger.hold_lost(await staying.database.read(budgets.left_by_lost)) == 1
        assert await staying.reservations() == {(made.request_id, 1): "unknown"}
        assert (await staying.verify()).is_consistent

    run(tmp_path, scenario)


def test_who_leaves_an_idempotency_key_unanswered_is_not_stopped_so_that_others_will_free_it(tmp_path):
    async def scenario(leaving, staying):
        key = claim("th_key", "once", b"body", "2026-04-11T12:00:00.000Z")
        made = await leaving.reserve()
        await leaving.ledger.release(made)
        with_key = await leaving.gate.admit(_admission(made, key))
        assert with_key.epoch == 1
        await leaving.ledger.release(_again(made))
        await leaving.membership.leave()
        assert await states(staying) == ["live", "live"]

    run(tmp_path, scenario)


def _again(made):
    return msgspec.structs.replace(made, attempt=2)


def _admission(made, key):
    return Admission(_again(made), key)

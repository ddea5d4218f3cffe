import pytest

from harness.books import run_on_books
from harness.clock import FakeClock
from tollhouse.tenants import store
from tollhouse.tenants.model import Feature, GateState
from tollhouse.tenants.sqlite import gate_state

# Elsewhere it is read together with all else that admits; see the gate's own tests.
of_sqlite = pytest.mark.engine("sqlite")


def gate(books, tenant_id="42", feature_slug="f"):
    return gate_state(books.database._raw, tenant_id, feature_slug)


def test_a_tenant_is_saved_and_found_and_replaced(tmp_path):
    async def scenario(books):
        await books.set_tenant("42", cap=7, expires_at="2027-01-01T00:00:00.000Z", name="Acme")
        found = await books.database.read(lambda connection: store.find(connection, "42"))
        assert (found.tenant_id, found.name, found.budget_nano_usd, found.is_active) == ("42", "Acme", 7, True)
        assert found.expires_at == "2027-01-01T00:00:00.000Z"
        await books.set_tenant("42", cap=8, is_active=False)
        found = await books.database.read(lambda connection: store.find(connection, "42"))
        assert (found.budget_nano_usd, found.is_active, found.expires_at) == (8, False, None)
        assert await books.database.read(lambda connection: store.find(connection, "43")) is None

    run_on_books(tmp_path, scenario)


def test_tenants_are_paged_in_the_order_of_their_ids(tmp_path):
    async def scenario(books):
        for tenant_id in ("b", "10", "a", "9"):
            await books.set_tenant(tenant_id)

        def pages(connection):
            after = ""
            while found := store.page(connection, after=after, limit=3):
                yield [module.tenant_id for module in found]
                after = found[-1].tenant_id

        assert await books.database.read(lambda connection: list(pages(connection))) == [["10", "9", "a"], ["b"]]

    run_on_books(tmp_path, scenario)


def test_tenants_without_a_budget_of_their_own_follow_their_tier(tmp_path):
    async def scenario(books):
        await books.set_tenant("follows", cap=10, has_own_budget=False)
        await books.set_tenant("has its own", cap=10, has_own_budget=True)
        await books.set_tenant("of another tier", cap=10, tier="starter", has_own_budget=False)
        await books.set_tenant("there already", cap=99, has_own_budget=False)
        changed = await books.database.write(lambda connection: store.follow_tier(connection, "growth", 99))
        assert changed == {"follows": 10}
        found = await books.database.read(lambda connection: store.page(connection, after="", limit=10))
        assert {module.tenant_id: module.budget_nano_usd for module in found} == {
            "follows": 99,
            "has its own": 10,
            "of another tier": 10,
            "there already": 99,
        }

    run_on_books(tmp_path, scenario)


def test_feature_switches_are_saved_found_and_listed(tmp_path):
    async def scenario(books):
        await books.set_feature("b", is_enabled=False)
        await books.set_feature("a", is_enabled=False)
        await books.set_feature("b", is_enabled=True)
        await books.set_feature("a", is_enabled=False, tenant_id="43")

        def look(connection):
            listed = store.features(connection, "42")
            assert [(feature.feature_slug, feature.is_enabled) for feature in listed] == [("a", False), ("b", True)]
            assert store.find_feature(connection, "42", "b") == listed[1]
            assert store.find_feature(connection, "42", "c") is None
            assert isinstance(listed[0], Feature)

        await books.database.read(look)

    run_on_books(tmp_path, scenario)


@of_sqlite
@pytest.mark.parametrize("is_active", [True, False])
@pytest.mark.parametrize("feature", [None, True, False])
def test_the_gate_sees_module_and_feature_and_takes_a_feature_without_a_switch_as_on(tmp_path, is_active, feature):
    async def scenario(books):
        await books.set_tenant("42", cap=7, is_active=is_active, expires_at="2027-01-01T00:00:00.000Z")
        await books.set_feature("another", is_enabled=False)
        await books.set_feature("f", is_enabled=False, tenant_id="43")
        if feature is not None:
            await books.set_feature("f", is_enabled=feature)
        assert gate(books) == GateState(is_active, "2027-01-01T00:00:00.000Z", 7, feature is not False, "growth")

    run_on_books(tmp_path, scenario)


@of_sqlite
def test_a_tenant_that_was_never_set_up_has_no_gate(tmp_path):
    async def scenario(books):
        await books.set_feature("f", is_enabled=True)
        assert gate(books) is None

    run_on_books(tmp_path, scenario, clock=FakeClock())

import pytest

from tollhouse.keys.model import Principal, ServiceKey


def principal(role="service", tenants=None):
    return Principal("key_1", "shop", role, tenants)


@pytest.mark.parametrize(
    ("role", "is_super_admin", "may_complete"),
    [("service", False, True), ("reader", False, False), ("super-admin", True, True)],
)
def test_a_role_says_what_a_key_may_do(role, is_super_admin, may_complete):
    assert principal(role).is_super_admin is is_super_admin
    assert principal(role).may_complete is may_complete


def test_a_key_acts_for_the_tenants_it_is_bound_to_or_for_all():
    assert principal().may_act_for("42")
    assert principal(tenants=frozenset({"42", "43"})).may_act_for("42")
    assert not principal(tenants=frozenset({"42", "43"})).may_act_for("4")
    assert not principal(tenants=frozenset()).may_act_for("42")


@pytest.mark.parametrize(("tenants", "only"), [(None, None), (["42"], "42"), (["42", "43"], None), ([], None)])
def test_a_key_of_one_tenant_supplies_it(tenants, only):
    assert principal(tenants=None if tenants is None else frozenset(tenants)).only_tenant == only


@pytest.mark.parametrize("tenants", [None, ("42", "43"), ()])
def test_a_key_on_record_becomes_its_principal(tenants):
    key = ServiceKey("key_1", "shop", "reader", tenants, "f", "00", "2026-04-10T12:00:00.000Z", None)
    bound_to = None if tenants is None else frozenset(tenants)
    assert key.principal() == Principal("key_1", "shop", "reader", bound_to, "f")

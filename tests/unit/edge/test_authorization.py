import pytest

from tollhouse.edge.authorization import authorize
from tollhouse.errors import TenantForbidden, Unauthorized
from tollhouse.keys.model import Principal
from tollhouse.keys.service import Keyring

KEYS = {
    "of-42": Principal("k1", "s", "service", frozenset({"42"}), "reports"),
    "of-two": Principal("k2", "s", "service", frozenset({"42", "43"})),
    "of-all": Principal("k3", "s", "service", None),
}


@pytest.fixture
def keyring() -> Keyring:
    keyring = Keyring(None, b"p" * 32)  # type: ignore[arg-type]
    for key, principal in KEYS.items():
        keyring.trust(key, principal)
    return keyring


def ask(keyring: Keyring, key: str, *headers: tuple[bytes, bytes]):
    return authorize(keyring, [(b"authorization", b"Bearer " + key.encode()), *headers])


def test_a_key_of_one_tenant_is_that_tenants(keyring):
    found = ask(keyring, "of-42")

    assert (found.tenant_id, found.feature_slug) == ("42", "reports")


def test_a_tenant_is_named_by_those_who_may_act_for_it(keyring):
    assert ask(keyring, "of-two", (b"x-tenant-id", b"43")).tenant_id == "43"
    assert ask(keyring, "of-all", (b"x-tenant-id", b"99")).tenant_id == "99"
    for key in ("of-42", "of-two"):
        with pytest.raises(TenantForbidden):
            ask(keyring, key, (b"x-tenant-id", b"99"))


def test_a_key_of_several_that_names_none_is_nobodys(keyring):
    assert ask(keyring, "of-two").tenant_id is None
    assert ask(keyring, "of-all").tenant_id is None


@pytest.mark.parametrize("values", [[b"42", b"42"], [b""], [b"x" * 65], [b"4\x002"]])
def test_a_tenant_that_is_not_named_properly_is_refused(keyring, values):
    for key in KEYS:
        with pytest.raises(TenantForbidden):
            ask(keyring, key, *((b"x-tenant-id", value) for value in values))


def test_unknown_keys_are_refused_before_anything_else(keyring):
    with pytest.raises(Unauthorized):
        ask(keyring, "nobody's", (b"x-tenant-id", b"42"))
    with pytest.raises(Unauthorized):
        authorize(keyring, [])


def test_a_key_may_come_in_the_query_or_in_a_clients_own_header(keyring):
    assert authorize(keyring, [], "of-42").tenant_id == "42"
    assert authorize(keyring, [(b"x-api-key", b"of-42")]).tenant_id == "42"


def test_a_feature_is_the_requests_or_the_keys(keyring):
    assert ask(keyring, "of-42", (b"x-feature-slug", b"other")).feature_slug == "other"
    assert ask(keyring, "of-42", (b"x-feature-slug", b"a"), (b"x-feature-slug", b"b")).feature_slug == ""

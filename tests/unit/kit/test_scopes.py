import pytest

from tollhouse.kit.scopes import Scope, describe_owner


@pytest.mark.parametrize(
    ("tenant_id", "scope", "scope_id", "said"),
    [
        ("42", "tenant", "", "tenant 42"),
        ("42", "user", "7", "user 7 of tenant 42"),
        ("42", "feature", "chat", "feature chat of tenant 42"),
        ("", "key", "key_1", "service key key_1"),
    ],
)
def test_an_owner_is_named_as_a_person_would(tenant_id: str, scope: Scope, scope_id: str, said: str):
    assert describe_owner(tenant_id, scope, scope_id) == said

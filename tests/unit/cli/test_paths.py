import pytest

from tollhouse.cli.paths import path


@pytest.mark.parametrize(
    ("part", "encoded"), [("42", "42"), ("a/b", "a%2Fb"), ("a b?c#d%", "a%20b%3Fc%23d%25"), ("é", "%C3%A9")]
)
def test_an_id_stays_one_part_of_a_path_whatever_it_contains(part, encoded):
    assert path("admin", "tenants", part) == f"/admin/tenants/{encoded}"

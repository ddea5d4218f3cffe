"""The key in a request's headers."""

import pytest

from tollhouse.errors import Unauthorized
from tollhouse.keys.bearer import bearer_key


@pytest.mark.parametrize("value", [b"Bearer th_abc", b"bearer th_abc", b"BEARER   th_abc  "])
def test_the_scheme_is_read_in_any_case_and_spaces_around_the_key_are_dropped(value):
    assert bearer_key([(b"host", b"x"), (b"authorization", value), (b"accept", b"*/*")]) == "th_abc"


@pytest.mark.parametrize("value", [b"", b"Bearer", b"Bearer ", b"Basic dTpw", b"th_abc", b"Bearerth_abc"])
def test_what_is_no_bearer_key_is_refused_without_being_repeated(value):
    with pytest.raises(Unauthorized) as refused:
        bearer_key([(b"authorization", value)])
    assert "Authorization: Bearer" in refused.value.message
    assert "th_abc" not in refused.value.message


def test_no_key_and_several_keys_are_refused():
    with pytest.raises(Unauthorized, match="no key was sent"):
        bearer_key([(b"x-api-key", b"th_abc")])
    with pytest.raises(Unauthorized, match="several"):
        bearer_key([(b"authorization", b"Bearer a"), (b"authorization", b"Bearer a")])


def test_any_byte_may_stand_in_a_key():
    assert bearer_key([(b"authorization", b"Bearer \xff\xe9")]) == "ÿé"

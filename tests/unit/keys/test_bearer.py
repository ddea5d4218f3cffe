import pytest

from tollhouse.errors import Unauthorized
from tollhouse.keys.bearer import bearer_key


@pytest.mark.parametrize(
    "value",
    [b"Bearer th_secret", b"bearer th_secret", b"BEARER   th_secret", b"Bearer th_secret ", b"Bearer \tth_secret"],
)
def test_a_bearer_key_is_read_from_the_header(value):
    assert bearer_key([(b"host", b"x"), (b"authorization", value)]) == "th_secret"


def test_bytes_beyond_ascii_are_read_as_a_key_that_nobody_has():
    assert bearer_key([(b"authorization", b"Bearer \xff\x80")]) == "\xff\x80"


@pytest.mark.parametrize(
    ("headers", "message"),
    [
        ([], "no key was sent"),
        ([(b"x-api-key", b"th_secret")], "no key was sent"),
        ([(b"authorization", b"Bearer a"), (b"authorization", b"Bearer a")], "several Authorization headers"),
        ([(b"authorization", b"")], "expected a service key"),
        ([(b"authorization", b"Bearer")], "expected a service key"),
        ([(b"authorization", b"Bearer   ")], "expected a service key"),
        ([(b"authorization", b"Basic dGg6c2VjcmV0")], "expected a service key"),
        ([(b"authorization", b"th_secret")], "expected a service key"),
        ([(b"authorization", b"Bearerth_secret")], "expected a service key"),
    ],
)
def test_what_is_no_single_bearer_key_is_refused_with_what_was_expected(headers, message):
    with pytest.raises(Unauthorized, match=message) as caught:
        bearer_key(headers)
    assert "Authorization: Bearer <key>" in caught.value.message
    assert "th_secret" not in caught.value.message

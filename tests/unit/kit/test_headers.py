"""Headers that must not be guessed at when they are repeated."""

import pytest

from tollhouse.kit.headers import RepeatedHeader, single_value, single_values


def test_a_header_is_found_or_known_to_be_absent():
    headers = [(b"host", b"a"), (b"x", b"1")]
    assert single_value(headers, b"x") == b"1"
    assert single_value(headers, b"y") is None
    assert single_value([], b"x") is None


def test_a_repeated_header_is_refused_and_another_ones_repetition_is_not():
    headers = [(b"x", b"1"), (b"accept", b"a"), (b"accept", b"b")]
    assert single_value(headers, b"x") == b"1"
    with pytest.raises(ValueError, match="accept was sent more than once"):
        single_value(headers, b"accept")
    with pytest.raises(ValueError, match="x was sent more than once"):
        single_value([*headers, (b"x", b"1")], b"x")


def test_several_headers_are_read_as_each_of_them():
    headers = [(b"x", b"1"), (b"accept", b"a"), (b"accept", b"b")]
    assert single_values(headers, (b"x", b"y")) == [b"1", None]
    with pytest.raises(RepeatedHeader) as caught:
        single_values(headers, (b"x", b"accept"))
    assert caught.value.name == "accept"

"""Headers that must not be guessed at when they are repeated."""

import pytest

from tollhouse.kit.headers import single_value


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

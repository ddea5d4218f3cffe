import pytest

from tollhouse.errors import Unauthorized
from tollhouse.keys.service import Keyring
from tollhouse.notifications.grant import Grant
from tollhouse.notifications.tokens import EventTokens, is_token


def test_a_token_grants_what_it_was_made_for_until_it_ends(keyring, clock):
    tokens = EventTokens(keyring, clock)
    token = tokens.make("key_1", "42", "101", clock.now_ms() + 5000)
    assert is_token(token)
    assert tokens.read(token) == Grant("key_1", frozenset({"42"}), "101", expires_at_ms=clock.now_ms() + 5000)
    clock.advance(5)
    with pytest.raises(Unauthorized, match="not valid here, or has expired"):
        tokens.read(token)


def test_a_token_is_accepted_by_every_process_with_the_pepper_and_by_no_other(keyring, clock):
    token = EventTokens(keyring, clock).make("key_1", "42", None, clock.now_ms() + 5000)
    assert EventTokens(keyring, clock).read(token).user_id is None
    nothing = None
    other = Keyring(nothing, b"q" * 32)  # type: ignore[arg-type]
    other._in_force.add("key_1")
    with pytest.raises(Unauthorized):
        EventTokens(other, clock).read(token)


def test_no_part_of_a_token_can_be_changed(keyring, clock):
    tokens = EventTokens(keyring, clock)
    token = tokens.make("key_1", "42", "101", clock.now_ms() + 5000)
    for place in range(len(token)):
        changed = token[:place] + ("A" if token[place] != "A" else "B") + token[place + 1 :]
        with pytest.raises(Unauthorized):
            tokens.read(changed)


def test_a_token_ends_with_its_key(keyring, clock):
    tokens = EventTokens(keyring, clock)
    token = tokens.make("key_of_another_time", "42", None, clock.now_ms() + 5000)
    with pytest.raises(Unauthorized):
        tokens.read(token)

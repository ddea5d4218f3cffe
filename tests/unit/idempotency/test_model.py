import msgspec
import pytest
from cryptography.exceptions import InvalidTag

from tollhouse.idempotency.model import claim

EXPIRES_AT = "2026-04-11T12:00:00.000Z"
API_KEY, KEY, BODY = "th_secret", "order-7", b'{"model":"small"}'
MINE = claim(API_KEY, KEY, BODY, EXPIRES_AT)


def test_the_same_call_makes_the_same_claim():
    assert claim(API_KEY, KEY, BODY, EXPIRES_AT) == MINE


def test_another_body_makes_the_same_claim_with_another_digest():
    other = claim(API_KEY, KEY, BODY + b" ", EXPIRES_AT)
    assert (other.claim_id, other.answer_key) == (MINE.claim_id, MINE.answer_key)
    assert other.body_digest != MINE.body_digest


@pytest.mark.parametrize(("api_key", "key"), [("th_other", KEY), (API_KEY, "order-8"), (KEY, API_KEY)])
def test_another_caller_or_another_key_has_nothing_in_common(api_key, key):
    other = claim(api_key, key, BODY, EXPIRES_AT)
    mine = {MINE.claim_id, MINE.body_digest, MINE.answer_key.hex()}
    assert mine.isdisjoint({other.claim_id, other.body_digest, other.answer_key.hex()})


def test_what_is_derived_for_one_purpose_is_of_no_use_for_another():
    derived = {MINE.claim_id, MINE.body_digest, MINE.answer_key.hex()}
    # A body cannot be made up so that its digest is the claim's id or the answer's key.
    for body in (b"claim id", b"answer key", b"body\0", b""):
        derived.add(claim(API_KEY, KEY, body, EXPIRES_AT).body_digest)
    assert len(derived) == 7


def test_an_answer_is_opened_by_its_own_caller():
    sealed = MINE.seal(b"the answer")
    assert claim(API_KEY, KEY, b"another body", EXPIRES_AT).open(sealed) == b"the answer"
    assert b"answer" not in sealed


def test_an_answer_is_sealed_differently_each_time():
    assert len({MINE.seal(b"the answer") for _ in range(100)}) == 100


@pytest.mark.parametrize(("api_key", "key"), [("th_other", KEY), (API_KEY, "order-8")])
def test_an_answer_is_not_opened_by_anybody_else(api_key, key):
    with pytest.raises(InvalidTag):
        claim(api_key, key, BODY, EXPIRES_AT).open(MINE.seal(b"the answer"))


def test_an_answer_that_was_changed_or_moved_to_another_row_is_not_opened():
    sealed = MINE.seal(b"the answer")
    for place in (0, 11, 12, len(sealed) - 1):
        changed = bytearray(sealed)
        changed[place] ^= 1
        with pytest.raises(InvalidTag):
            MINE.open(bytes(changed))
    with pytest.raises(InvalidTag):
        msgspec.structs.replace(MINE, claim_id="0" * 64).open(sealed)


def test_a_claim_never_shows_its_key():
    assert repr(MINE) == f"Claim({MINE.claim_id[:8]}…)"
    assert MINE.answer_key.hex() not in f"{MINE} {MINE!r}"

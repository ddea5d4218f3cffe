"""On whose account calls are made."""

import pytest

from tollhouse.errors import Forbidden
from tollhouse.keys.charging import Accounts
from tollhouse.keys.model import Principal

pytestmark = pytest.mark.engine("sqlite")

WORKER = Principal("key_worker", "worker", "service", frozenset({"42"}), "f")
ACCOUNTS = Accounts(b"s" * 32)


def test_a_call_is_its_callers_on_the_account_of_another_key():
    signed = ACCOUNTS.sign("key_shop", "café", "job_1")
    assert signed.isascii()
    assert ACCOUNTS.charged(WORKER, signed.encode(), "job_1") == Principal(
        "key_shop", "café", "service", frozenset({"42"}), "f"
    )


@pytest.mark.parametrize("key", ["job_2", "", None])
def test_it_holds_for_one_call_alone(key):
    with pytest.raises(Forbidden, match=r"^X-Charged-Key: is not signed for this call"):
        ACCOUNTS.charged(WORKER, ACCOUNTS.sign("key_shop", "shop", "job_1").encode(), key)


def test_whatever_else_is_sent_is_refused():
    signed = ACCOUNTS.sign("key_shop", "shop", "job_1")
    other = Accounts(b"t" * 32).sign("key_shop", "shop", "job_1")
    moved = signed[:64] + ACCOUNTS.sign("key_sho", "pshop", "job_1")[64:]
    for wrong in (b"", b"x", b"\xff" * 80, signed[:-1].encode(), (signed + "00").encode(), other.encode()):
        with pytest.raises(Forbidden):
            ACCOUNTS.charged(WORKER, wrong, "job_1")
    with pytest.raises(Forbidden):
        ACCOUNTS.charged(WORKER, moved.encode(), "job_1")

import pytest

from harness.clock import FakeClock
from tollhouse.keys.model import Principal
from tollhouse.keys.service import Keyring


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def keyring():
    nothing = None
    keyring = Keyring(nothing, b"p" * 32)  # type: ignore[arg-type]
    keyring.trust("the-key", Principal("key_1", "shop", "service", frozenset({"42", "43"})))
    return keyring

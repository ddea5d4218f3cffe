import pytest
from cryptography.exceptions import InvalidTag

from tollhouse.kit.sealing import Vault


def test_a_sealed_secret_is_of_no_use_without_its_key_or_at_another_endpoint():
    vault = Vault(b"k" * 32)
    sealed = vault.seal(b"the secret", "whe_1")
    assert b"the secret" not in sealed
    assert vault.open(sealed, "whe_1") == b"the secret"
    assert vault.seal(b"the secret", "whe_1") != sealed
    for other, endpoint_id in ((vault, "whe_2"), (Vault(b"K" * 32), "whe_1")):
        with pytest.raises(InvalidTag):
            other.open(sealed, endpoint_id)

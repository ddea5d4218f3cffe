import base64
import hashlib
import hmac
import time

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from tollhouse.webhooks.signing import new_secret, secret_text, signed_headers

# The example of the specification (https://github.com/standard-webhooks/standard-webhooks, its libraries' tests).
SPEC_SECRET = base64.b64decode("MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
SPEC_BODY = b'{"test": 2432232314}'


def test_a_signature_is_that_of_the_specification():
    headers = signed_headers([SPEC_SECRET], "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, SPEC_BODY)
    assert headers == {
        "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
        "webhook-timestamp": "1614265330",
        "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    }


def test_a_receiver_that_knows_either_secret_is_satisfied():
    old, new = new_secret(), new_secret()
    sent = signed_headers([new, old], "evt_1", 1_775_000_000, b"{}")["webhook-signature"].split(" ")
    for secret in (old, new):
        key = base64.b64decode(secret_text(secret).removeprefix("whsec_"))
        expected = hmac.digest(key, b"evt_1.1775000000.{}", hashlib.sha256)
        assert f"v1,{base64.b64encode(expected).decode()}" in sent
    assert len(sent) == 2


def test_the_specifications_own_library_verifies_what_is_sent_and_nothing_else():
    now_s = int(time.time())
    old, new = new_secret(), new_secret()
    headers = signed_headers([new, old], "evt_1", now_s, SPEC_BODY)
    for secret in (old, new):
        assert Webhook(secret_text(secret)).verify(SPEC_BODY, headers) == {"test": 2432232314}
    verifier = Webhook(secret_text(new))
    changed = {
        "another secret": (Webhook(secret_text(new_secret())), SPEC_BODY, headers),
        "another body": (verifier, SPEC_BODY + b" ", headers),
        "another id": (verifier, SPEC_BODY, headers | {"webhook-id": "evt_2"}),
        "another time": (verifier, SPEC_BODY, headers | {"webhook-timestamp": str(now_s + 1)}),
        "an old one": (verifier, SPEC_BODY, signed_headers([new], "evt_1", now_s - 3600, SPEC_BODY)),
    }
    for by, body, sent in changed.values():
        with pytest.raises(WebhookVerificationError):
            by.verify(body, sent)


def test_a_secret_has_the_length_that_the_specification_asks_for():
    text = secret_text(new_secret())
    assert text.startswith("whsec_")
    assert 24 <= len(base64.b64decode(text.removeprefix("whsec_"))) <= 64

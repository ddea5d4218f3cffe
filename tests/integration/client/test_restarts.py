"""A service that is killed during calls and comes back: one logical call is billed once at most."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from threading import Thread

import pytest

from harness.faults_service import FaultyService
from harness.python_client import Kind, client_of
from harness.service import eventually, free_port, limits, model, providers
from tollhouse.client import CallOptions, Completion, RetryPolicy, errors
from tollhouse.testing import FakeProvider

pytestmark = pytest.mark.engine("sqlite")
CALL: CallOptions = {"model": "m", "user_message": "When does it open?", "max_tokens": 100}
PATIENT = RetryPolicy(max_tries=1000, first_pause_s=0.05, longest_pause_s=0.2)
Outcome = Completion | errors.TollhouseError


@contextmanager
def calling(kind: Kind, url: str, key: str) -> Iterator[list[Outcome]]:
    """Make a call beside what is done meanwhile, and wait for its outcome."""
    outcomes: list[Outcome] = []

    def call() -> None:
        client = client_of(kind, url, key, pauses=True, retry=PATIENT, breaker=None)
        try:
            outcomes.append(client.complete(**CALL))
        except errors.TollhouseError as error:
            outcomes.append(error)
        client.close()

    thread = Thread(target=call)
    thread.start()
    try:
        yield outcomes
    finally:
        thread.join()


def test_a_service_that_is_killed_during_calls(engine, tmp_path):
    with FakeProvider() as fake, ExitStack() as running:
        service = FaultyService(tmp_path, providers(fake) + model("m", "anthropic") + limits())
        # The client finds it again where it was.
        port = free_port()
        text = service.config_file.read_text()
        service.config_file.write_text(text.replace("port = 0", f"port = {port}", 1))
        service.start_doomed("after_settle", 1)
        tenant = service.tenant()
        url, key = f"http://127.0.0.1:{port}", service.new_key(tenants=[tenant], feature_slug="chat")["key"]

        with calling("blocking", url, key) as settled:
            service.wait_for_death()
            service.start_doomed("in_dispatch", 1)
        with calling("asyncio", url, key) as dispatched:
            service.wait_for_death()
            running.enter_context(service.sound())
        eventually(lambda: not service.open_reservations())
        first, second = service.rows(tenant_id=tenant)
        assert service.findings() == []
        receipts = fake.receipts()

    # It was paid and entered, and only its answer was lost.
    (answer,) = settled
    assert isinstance(answer, Completion), answer
    assert answer.replayed
    assert (first["status"], first["request_id"]) == ("settled", answer.request_id)
    # What became of it at the provider nobody knows, so that it is not made again.
    (unknown,) = dispatched
    assert isinstance(unknown, errors.CallTimeout), unknown
    assert unknown.idempotency_key
    assert second["status"] == "unknown"
    assert len(receipts) == 2

"""``python -O`` leaves assertions out: nothing that has to happen may happen inside of one."""

import subprocess
import sys

import pytest

from harness.calls import body_for
from harness.service import limits, model, providers, serving
from tollhouse.testing import FakeProvider


@pytest.fixture
def _without_assertions(monkeypatch):
    """Have the interpreters that a test starts behave as with -O."""
    monkeypatch.setenv("PYTHONOPTIMIZE", "1")
    assert subprocess.run([sys.executable, "-c", "assert False"], check=False).returncode == 0


@pytest.mark.usefixtures("_without_assertions")
def test_calls_are_served_refused_and_entered_without_assertions_too(tmp_path):
    with FakeProvider() as fake, serving(tmp_path, providers(fake) + model("m", "anthropic") + limits()) as service:
        tenant, poor = service.tenant(), service.tenant(budget_usd=0.0001)
        assert service.complete(body_for(tenant, model="m"), Idempotency_Key="a").status == 200
        assert service.complete(body_for(poor, model="m")).code == "ai_budget_exceeded"
        assert len(fake.receipts()) == 1
        assert service.open_reservations() == []
        assert service.budget(tenant)["reserved_nano_usd"] == 0
        assert service.terminate() == 0

        service.start()
        (row,) = service.rows()
        assert (row["tenant_id"], row["status"]) == (str(tenant), "settled")
        assert (
            service.complete(body_for(tenant, model="m"), Idempotency_Key="a").headers["idempotent-replayed"] == "true"
        )
        assert len(fake.receipts()) == 1
        assert service.verify().returncode == 0

"""500 calls with one idempotency key, at all processes at once: one is paid for."""

from collections import Counter

import uvloop

from harness.faults import measure, new_key
from harness.load import all_at_once
from harness.reckoning import numbered_call
from tollhouse.testing import Behaviour

CALLS = 500


def test_of_500_calls_with_one_key_one_is_paid_for(service, instances, ports, fake):
    tenant, key = service.tenant(), new_key(instances)
    fake.behave(Behaviour(delay_s=0.15))
    request = numbered_call(7, tenant, key, is_idempotent=True)

    outcomes = uvloop.run(all_at_once(ports, [request] * CALLS))

    told = Counter(outcome.status for outcome in outcomes)
    assert set(told) <= {200, 409}
    again = uvloop.run(all_at_once(ports, [request] * CALLS))
    assert {outcome.status for outcome in again} == {200}
    assert len({outcome.body for outcome in outcomes + again if outcome.status == 200}) == 1
    measure(service, fake, tenant, outcomes + again).check(f"{CALLS} calls with one idempotency key, twice")
    assert len(fake.receipts()) == len(service.rows(tenant_id=tenant)) == 1
    assert service.budget(tenant)["reserved_nano_usd"] == 0

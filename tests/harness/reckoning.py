"""Calls that can be told apart in receipts, ledger and answers, and what they add up to after a fault."""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from harness.calls import NANO, body_for
from harness.load import Outcome, post
from harness.service import Service, TenantId
from tollhouse.ledger.verify import Finding
from tollhouse.testing import FakeProvider, Receipt

_NUMBER = re.compile(rb"Call number (\d+)\.")


def numbered(tenant: TenantId, key: str, *, start: int = 0, is_idempotent: bool = False) -> Iterator[tuple[int, bytes]]:
    """Yield calls without end, each by a user of its own whose id is the call's number."""
    for number in count(start):
        yield number, numbered_call(number, tenant, key, is_idempotent=is_idempotent)


def numbered_body(number: int, tenant: TenantId, **changes: object) -> dict[str, Any]:
    """Return the body of the call with a number."""
    fields = {"model": "m", "user_id": number, "user_message": f"Call number {number}.", "max_tokens": 50}
    return body_for(tenant, **{**fields, **changes})


def numbered_call(number: int, tenant: TenantId, key: str, *, is_idempotent: bool = False, **changes: object) -> bytes:
    """Return the call with a number."""
    headers = {"idempotency_key": f"call-{number}"} if is_idempotent else {}
    return post(numbered_body(number, tenant, **changes), key, **headers)


def number_of(receipt: Receipt) -> int:
    """Return the number of the call that a receipt is for."""
    found = _NUMBER.search(bytes(receipt.raw_request))
    assert found is not None, "every call has a number"
    return int(found[1])


@dataclass
class Reckoning:
    """What must be zero after any fault, and how much there was to go wrong."""

    answered: int
    unanswered: int
    receipts: int
    settled: int
    unknown: int
    receipts_without_a_row: int
    acknowledged_rows_lost: int
    doubled_rows: int
    doubled_receipts: int
    open_reservations: int
    findings: list[Finding]

    def check(self) -> None:
        """Print all figures; raises AssertionError when something was lost, doubled or left behind."""
        print(self)
        assert self.receipts_without_a_row == 0
        assert self.acknowledged_rows_lost == 0
        assert self.doubled_rows == 0
        assert self.doubled_receipts == 0
        assert self.open_reservations == 0
        assert self.findings == []


def reckon(service: Service, fake: FakeProvider, tenant: TenantId, outcomes: Sequence[Outcome]) -> Reckoning:
    """Hold answers, receipts and ledger against each other; the calls are those of ``numbered``."""
    rows = service.rows(tenant_id=tenant)
    rows_of = Counter(int(row["user_id"]) for row in rows)
    receipts_of = Counter(number_of(receipt) for receipt in fake.receipts())
    answers = [outcome.json for outcome in outcomes if outcome.status == 200]
    costs = {row["request_id"]: row["cost_nano_usd"] for row in rows if row["status"] == "settled"}
    lost = [answer for answer in answers if costs.get(answer["request_id"]) != answer["cost_usd"] * NANO]
    return Reckoning(
        answered=len(answers),
        unanswered=sum(outcome.status is None for outcome in outcomes),
        receipts=sum(receipts_of.values()),
        settled=len(costs),
        unknown=sum(row["status"] == "unknown" for row in rows),
        receipts_without_a_row=sum(number not in rows_of for number in receipts_of),
        acknowledged_rows_lost=len(lost),
        doubled_rows=sum(times > 1 for times in rows_of.values()),
        doubled_receipts=sum(times > 1 for times in receipts_of.values()),
        open_reservations=len(service.open_reservations()),
        findings=service.findings(),
    )

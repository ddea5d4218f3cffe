"""The figures of a fault: each scenario prints one line of them, measured from receipts, answers and the database.

``FAULT <engine> <scenario>: overspend_nano_usd=0 rows_lost=0 rows_doubled=0 false_402_percent=0.0 recovered_s=…``
"""

import time
from bisect import bisect_left, bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from itertools import accumulate

from harness import engines
from harness.calls import NANO, ceiling_nano_usd
from harness.load import Outcome
from harness.reckoning import number_of, numbered_body
from harness.service import Service, TenantId, eventually
from tollhouse.ledger.verify import Finding
from tollhouse.testing import FakeProvider, Receipt

INPUT_NANO_USD, OUTPUT_NANO_USD = 800, 4000
"""What a token costs by the price that ``harness.service.model`` gives unless told otherwise."""
AT_MOST = {"input_usd": "0.80", "output_usd": "4.00"}
_PROBE = 999_999_999
"""The number of calls that only find out whether calls are served; they are for a tenant of their own."""
_STATUSES_OF_UNDISPATCHED = frozenset({401, 402, 403, 404, 409, 413, 422, 429})


@dataclass
class Figures:
    """What came of a fault.

    Attributes:
        overspend_nano_usd: by how much the provider's receipts, or a budget in the database, were above the cap.
        rows_lost: billed calls without a row, and answers whose row is not there as it was told.
        rows_doubled: calls with more than one row, and calls that were billed more than once.
        false_402_percent: calls refused with 402 though their ceiling fitted, of all calls.
        recovered_s: from the end of the fault until calls were served again.
        left_open: reservations that nobody will ever end.
        further: what else is worth knowing.
    """

    overspend_nano_usd: int
    rows_lost: int
    rows_doubled: int
    false_402_percent: float
    recovered_s: float | None = None
    left_open: int = 0
    findings: list[Finding] = field(default_factory=list)
    further: dict[str, object] = field(default_factory=dict)

    def check(self, scenario: str, *, recovered_s: float | None = None, **further: object) -> None:
        """Print the line of a scenario; raises AssertionError unless what has to be zero is."""
        recovered_s = self.recovered_s if recovered_s is None else recovered_s
        shown = "-" if recovered_s is None else f"{recovered_s:.2f}"
        rest = "".join(f" {name}={value}" for name, value in {**self.further, **further}.items())
        print(
            f"\nFAULT {engines.current()} {scenario}: overspend_nano_usd={self.overspend_nano_usd} "
            f"rows_lost={self.rows_lost} rows_doubled={self.rows_doubled} "
            f"false_402_percent={self.false_402_percent:.1f} recovered_s={shown}{rest}"
        )
        assert (self.overspend_nano_usd, self.rows_lost, self.rows_doubled) == (0, 0, 0)
        assert self.false_402_percent == 0
        assert self.left_open == 0
        assert self.findings == []


def ceiling_of_numbered(number: int) -> int:
    """Return the ceiling of a call that ``numbered_call`` makes."""
    return ceiling_nano_usd(numbered_body(number, 0), **AT_MOST)


def measure(
    service: Service,
    fake: FakeProvider,
    tenant: TenantId,
    outcomes: Sequence[Outcome],
    *,
    earlier: Sequence[Outcome] = (),
    cap_nano_usd: int | None = None,
    fitting: int | None = None,
    ceiling_of: Callable[[int], int] = ceiling_of_numbered,
    caps: "Caps | None" = None,
    seen: Iterable[Mapping[str, int]] = (),
    bills_beyond: int = 0,
    false_402s: int | None = None,
) -> Figures:
    """Hold receipts, answers and database against each other; the calls carry their numbers, see ``number_of``.

    Args:
        service: any of those that share the database.
        outcomes: what became of every call that was made,
        earlier: except for those, whose refusals are not looked at again.
        cap_nano_usd: the highest the tenant's cap was, over all months; by default the caps on record.
        fitting: how many calls the cap holds, where that is known: less of them are false refusals.
        ceiling_of: a call's ceiling by its number.
        caps: the caps that there were, if the test changed them meanwhile.
        seen: budgets, as they were read meanwhile.
        bills_beyond: how much the provider may have billed beyond the limits that it was given.
        false_402s: how many there were, where the test knows better.
    """
    rows = service.rows(tenant_id=tenant)
    budgets = service.query(
        "SELECT cap_nano_usd, posted_nano_usd, reserved_nano_usd FROM ai_budgets WHERE tenant_id = ? AND scope = ?",
        str(tenant),
        "tenant",
    )
    receipts = [receipt for receipt in fake.receipts() if receipt.billed and number_of(receipt) != _PROBE]
    billed = sum(map(billed_nano_usd, receipts))
    cap = sum(budget["cap_nano_usd"] for budget in budgets) if cap_nano_usd is None else cap_nano_usd
    over = [billed - cap - bills_beyond]
    over += [each["posted_nano_usd"] + each["reserved_nano_usd"] - cap - bills_beyond for each in budgets]
    over += [each["posted_nano_usd"] + each["reserved_nano_usd"] - cap for each in seen]

    rows_of = Counter(int(row["user_id"]) for row in rows)
    receipts_of = Counter(number_of(receipt) for receipt in receipts)
    costs = {row["request_id"]: row["cost_nano_usd"] for row in rows if row["status"] == "settled"}
    told = (each.json for each in (*earlier, *outcomes) if each.status == 200)
    answers = {answer["request_id"]: answer for answer in told}
    lost = sum(number not in rows_of for number in receipts_of)
    lost += sum(costs.get(request_id) != each["cost_usd"] * NANO for request_id, each in answers.items())
    doubled = sum(times - 1 for times in rows_of.values()) + sum(times - 1 for times in receipts_of.values())

    known = [each for each in earlier if each.status != 402]
    if false_402s is None:
        cap_within = caps.lowest_within if caps else lambda *_: cap
        false_402s = certainly_false_402s([*known, *outcomes], cap_within, ceiling_of)
    if fitting is not None:
        false_402s = max(false_402s, fitting - len(answers))
    return Figures(
        overspend_nano_usd=max(0, *over),
        rows_lost=lost,
        rows_doubled=doubled,
        false_402_percent=100 * false_402s / max(1, len(outcomes)),
        left_open=len(service.open_reservations()),
        findings=service.findings(),
        further={
            "calls": len(outcomes),
            "statuses": str(dict(Counter(each.status for each in outcomes))).replace(" ", ""),
            "receipts": len(receipts),
            "unknown": sum(row["status"] == "unknown" for row in rows),
        },
    )


def certainly_false_402s(
    outcomes: Sequence[Outcome], cap_within: Callable[[float, float], int], ceiling_of: Callable[[int], int]
) -> int:
    """Count the calls refused with 402 though all that can have counted against the cap left room for their ceiling.

    At most there count: the costs of what was answered before a call was sent, and the ceilings of what was under way
    while it was, or whose outcome nobody was told.
    """
    charged = [
        (each.sent_s, each.answered_s, ceiling_of(each.number), _cost(each))
        for each in outcomes
        if each.status not in _STATUSES_OF_UNDISPATCHED
    ]
    by_sent = sorted((sent_s, ceiling) for sent_s, _, ceiling, _ in charged)
    by_answered = sorted((answered_s, ceiling - cost) for _, answered_s, ceiling, cost in charged if cost is not None)
    ceilings = [0, *accumulate(ceiling for _, ceiling in by_sent)]
    freed = [0, *accumulate(freed for _, freed in by_answered)]
    sent = [sent_s for sent_s, _ in by_sent]
    answered = [answered_s for answered_s, _ in by_answered]
    found = 0
    for each in outcomes:
        if each.status == 402:
            most = ceilings[bisect_right(sent, each.answered_s)] - freed[bisect_left(answered, each.sent_s)]
            found += most + ceiling_of(each.number) <= cap_within(each.sent_s, each.answered_s)
    return found


def _cost(outcome: Outcome) -> int | None:
    return int(outcome.json["cost_usd"] * NANO) if outcome.status == 200 else None


def billed_nano_usd(receipt: Receipt) -> int:
    """Return what a provider bills for a call, by the price of the tests."""
    return receipt.input_tokens * INPUT_NANO_USD + receipt.output_tokens * OUTPUT_NANO_USD


def set_cap(service: Service, tenant: TenantId, nano_usd: int) -> None:
    """Give a tenant an active module with a cap, exact to the nano-USD."""
    raw = f'{{"is_active": true, "budget_usd": {Decimal(nano_usd) / NANO:f}}}'.encode()
    assert service.request("PUT", f"/admin/tenants/{tenant}", raw).status == 200


def new_key(services: Sequence[Service]) -> str:
    """Make a service key, and wait until each of the processes knows it."""
    key: str = services[0].new_key()["key"]
    for service in services:
        eventually(lambda: service.complete({}, key=key).status == 422)  # noqa: B023 - called before the next turn
    return key


class Caps:
    """The caps that a tenant had, one after the other."""

    def __init__(self, service: Service, tenant: TenantId) -> None:
        self._service, self._tenant = service, tenant
        self._set: list[tuple[float, float, int]] = []

    def set(self, nano_usd: int) -> None:
        began_s = time.monotonic()
        set_cap(self._service, self._tenant, nano_usd)
        self._set.append((began_s, time.monotonic(), nano_usd))

    def lowest_within(self, since_s: float, until_s: float) -> int:
        """Return the lowest that can have been in force at any moment of a span."""
        ends_s = [set_s for _, set_s, _ in self._set[1:]] + [float("inf")]
        return min(
            cap
            for (began_s, _, cap), end_s in zip(self._set, ends_s, strict=True)
            if began_s <= until_s and end_s >= since_s
        )


def check_refusals(outcomes: Iterable[Outcome]) -> None:
    """Check that all 503s say so in the form of the contract, with the time after which to try again."""
    for outcome in outcomes:
        if outcome.status == 503:
            assert outcome.json["error"] == "ai_unavailable", outcome
            assert outcome.retry_after is not None, outcome
            assert int(outcome.retry_after) >= 1, outcome


def first_served_s(outcomes: Iterable[Outcome], since_s: float) -> float:
    """Return how long after an instant the first call was answered that had been sent after it."""
    served = [each.answered_s for each in outcomes if each.status == 200 and each.sent_s >= since_s]
    assert served, "it recovered"
    return min(served) - since_s


def seconds_until_served(service: Service, tenant: TenantId, since_s: float | None = None) -> float:
    """Call until a call is served; return how long that took, counted from now or from an instant."""
    since_s = time.monotonic() if since_s is None else since_s
    body = numbered_body(_PROBE, tenant)
    deadline_s = time.monotonic() + 60
    while True:
        try:
            status = service.complete(body).status
        except OSError:
            status = None
        if status == 200:
            return time.monotonic() - since_s
        assert time.monotonic() < deadline_s, f"it does not recover: {status}"
        time.sleep(0.01)

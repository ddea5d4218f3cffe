"""An export that is longer than one request takes: its parts, and their reports as one."""

from decimal import Decimal

from tollhouse.cli import reconcile
from tollhouse.providers.usage import Usage
from tollhouse.reconciliation import body
from tollhouse.reconciliation.model import UsageBucket


def bucket(start_ms, model):
    return UsageBucket(
        model=model, start_ms=start_ms, end_ms=start_ms + 1000, requests=None, usage=Usage(), splits_reasoning=True
    )


def test_buckets_of_one_span_stay_in_one_part(monkeypatch):
    monkeypatch.setattr(body, "MAX_BUCKETS", 3)
    buckets = [bucket(start_ms, model) for model in "ab" for start_ms in (2000, 0, 1000)] + [bucket(3000, "a")]

    parts = list(reconcile._parts(buckets))

    assert [[(each.start_ms, each.model) for each in part] for part in parts] == [
        [(0, "a"), (0, "b")],
        [(1000, "a"), (1000, "b")],
        [(2000, "a"), (2000, "b"), (3000, "a")],
    ]


def test_the_reports_of_parts_are_told_as_one(capsys):
    def report(resolved, cost, *outcomes):
        buckets = [
            {"model": "m", "start": "s", "end": "e", "outcome": outcome, "reason": "why", "counts": []}
            for outcome in outcomes
        ]
        sums = {"resolved": resolved, "taken": 1, "cost_usd": Decimal(cost)}
        return {"provider": "p", "dry_run": False, "buckets": buckets, **sums}

    whole = reconcile._whole([report(2, "0.000000001", "agrees"), report(3, "1.5", "differs", "resolved")])
    reconcile._print(whole)

    assert (whole["resolved"], whole["taken"], whole["cost_usd"]) == (5, 2, Decimal("1.500000001"))
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "m, s to e: differs: why"
    assert said[-2:] == [
        "p: 3 spans compared, 1 agree; 5 calls of unknown outcome resolved, at $1.500000001.",
        "2 more were resolved by somebody else meanwhile, or refused by the ledger.",
    ]

import asyncio

import pytest

from tollhouse.errors import Unavailable
from tollhouse.guardrails import log
from tollhouse.guardrails.findings import Findings
from tollhouse.guardrails.log import FindingsLog
from tollhouse.kit.clock import SystemClock
from tollhouse.telemetry.metrics import Metrics


class Database:
    """Takes what is written; says that it cannot while it is down."""

    def __init__(self):
        self.rows = []
        self.is_down = False

    async def write(self, work):
        await asyncio.sleep(0)
        if self.is_down:
            raise Unavailable("it is down")
        work(self)

    def execute(self, statement, rows):
        self.rows += rows


def noted(findings_log, count=1):
    findings = Findings("input")
    findings.add("pii", "card", "redact", count)
    findings_log.note(findings, request_id="req_1", tenant_id="42", user_id="u", feature_slug="f")


@pytest.fixture
def database():
    return Database()


def test_findings_are_counted_at_once_and_written_soon(database):
    async def run():
        metrics = Metrics()
        findings_log = FindingsLog(database, SystemClock(), metrics)
        task = asyncio.create_task(findings_log.keep_writing())
        noted(findings_log, 3)
        assert b'tollhouse_guardrail_findings_total{action="redact",guard="pii",kind="card",stage="input"} 3.0' in (
            metrics.exposition()
        )
        for _ in range(5):
            await asyncio.sleep(0)
        task.cancel()

    asyncio.run(run())
    assert [(row["request_id"], row["kind"], row["found"]) for row in database.rows] == [("req_1", "card", 3)]


def test_while_the_database_is_down_findings_wait_within_bounds(database, monkeypatch):
    monkeypatch.setattr(log, "_RETRY_EVERY_S", 0)
    monkeypatch.setattr(log, "_MOST_WAITING", 5)
    database.is_down = True

    async def run():
        metrics = Metrics()
        findings_log = FindingsLog(database, SystemClock(), metrics)
        task = asyncio.create_task(findings_log.keep_writing())
        for _ in range(7):
            noted(findings_log)
        await asyncio.sleep(0.01)
        assert metrics.lost_findings == 2
        assert database.rows == []
        database.is_down = False
        while len(database.rows) < 5:
            await asyncio.sleep(0)
        task.cancel()

    asyncio.run(run())
    assert len(database.rows) == 5


def test_what_waits_is_written_when_the_service_stops(database):
    async def run():
        findings_log = FindingsLog(database, SystemClock(), Metrics())
        noted(findings_log)
        await findings_log.close()
        database.is_down = True
        noted(findings_log)
        await findings_log.close()

    asyncio.run(run())
    assert len(database.rows) == 1


def test_a_defect_in_writing_them_loses_no_findings(database):
    async def run():
        findings_log = FindingsLog(database, SystemClock(), Metrics())
        noted(findings_log)
        execute, database.execute = database.execute, lambda *_: 1 / 0
        with pytest.raises(ZeroDivisionError):
            await findings_log.flush()
        database.execute = execute
        await findings_log.flush()

    asyncio.run(run())
    assert len(database.rows) == 1

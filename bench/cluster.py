"""What is measured on PostgreSQL, beside SQLite, nginx or fewer instances in the same run."""

import asyncio
import statistics
from concurrent.futures import ThreadPoolExecutor

from bench.arithmetic import median_ratio, per_call_us, significant
from bench.cases import Bench, Row
from bench.postgres import Postgres
from bench.processes import cpu_s
from bench.rate import latencies
from bench.service import Service

_PER_S = 200
_TENANTS = 1000
_GIBIBYTE = 1024**3
_SECONDS_OF_A_MONTH = 30 * 24 * 3600

# The same tenants as fill.py makes.
_FILL_TENANTS = f"""
INSERT INTO tenant_ai_modules (tenant_id, name, tier, is_active, budget_nano_usd, has_own_budget, created_at,
  updated_at)
SELECT id::text, '', 'bench', TRUE, 1000000000000000000, TRUE, '2026-01-01T00:00:00.000Z', '2026-01-01T00:00:00.000Z'
  FROM generate_series(1, {_TENANTS}) AS id ON CONFLICT DO NOTHING"""


def postgres(bench: Bench) -> list[Row]:
    """CPU of the service and of the server, calls carried, and what reserve and settle add for a caller."""
    server = bench.postgres()
    url = server.new_database()
    clustered = bench.instance("postgres", url)
    embedded = bench.service("sqlite")
    server.run(url, _FILL_TENANTS)
    return [
        *_cpu(bench, server, clustered, embedded),
        *_tenants(bench, clustered),
        *_instances(bench, url, clustered),
        *_added(bench, clustered, embedded),
        *_room(bench, server, url, clustered),
    ]


def _cpu(bench: Bench, server: Postgres, clustered: Service, embedded: Service) -> list[Row]:
    rows = []
    for connections in (64, 256):
        ours, theirs, of_server = [], [], []
        for _ in range(bench.plan.rounds):
            theirs.append(bench.service_us(embedded, connections))
            before_s, server_before_s = cpu_s(clustered.pid), server.cpu_s()
            load = bench.caller(clustered).call(
                clustered.port, connections=connections, duration_s=bench.plan.duration_s
            )
            ours.append(per_call_us(cpu_s(clustered.pid) - before_s, load.calls))
            of_server.append(per_call_us(server.cpu_s() - server_before_s, load.calls))
        ratio = significant(median_ratio(ours, theirs))
        figure = (
            f"**{ratio}** ({significant(statistics.median(ours))} µs over {significant(statistics.median(theirs))} µs)"
        )
        rows += [
            Row(f"CPU per call on PostgreSQL over SQLite, {connections} connections", figure),
            Row(
                f"… and of the PostgreSQL server beside it, {connections} connections",
                f"{significant(statistics.median(of_server))} µs",
            ),
        ]
    return rows


def _carried(bench: Bench, services: list[Service], tenants: int = 1) -> float:
    """Return the calls a second that instances carry together, all loaded at once."""
    with ThreadPoolExecutor(len(services)) as callers:
        loads = callers.map(
            lambda service: bench.caller(service, tenants).call(
                service.port, connections=256 // len(services), duration_s=bench.plan.duration_s
            ),
            services,
        )
        return sum(load.calls / load.duration_s for load in loads)


def _tenants(bench: Bench, service: Service) -> list[Row]:
    one, many = [], []
    for _ in range(bench.plan.rounds):
        one.append(_carried(bench, [service]))
        many.append(_carried(bench, [service], _TENANTS))
    return [_beside(f"Calls/s of one tenant over those of {_TENANTS:,}", one, many)]


def _instances(bench: Bench, url: str, first: Service) -> list[Row]:
    second = bench.instance("second", url)
    alone, together = [], []
    for _ in range(bench.plan.rounds):
        alone.append(_carried(bench, [first]))
        together.append(_carried(bench, [first, second]))
    return [_beside("Calls/s of two instances over one, of one tenant, all on this machine", together, alone)]


def _beside(what: str, measured: list[float], baseline: list[float]) -> Row:
    ratio = significant(median_ratio(measured, baseline))
    return Row(what, f"{ratio} ({statistics.median(measured):,.0f}/s over {statistics.median(baseline):,.0f}/s)")


def _added(bench: Bench, clustered: Service, embedded: Service) -> list[Row]:
    rows = []
    for name, service in (("SQLite", embedded), ("PostgreSQL", clustered)):
        p50s, p99s = [], []
        for _ in range(bench.plan.rounds):
            ways = [(bench.proxy.port, service.key), (service.port, service.key)]
            bare, full = (
                asyncio.run(latencies(port, key, per_s=_PER_S, duration_s=bench.plan.duration_s)) for port, key in ways
            )
            p50s.append(full.p50_ms - bare.p50_ms)
            p99s.append(full.p99_ms - bare.p99_ms)
        figure = f"{significant(statistics.median(p99s))} ms (median {significant(statistics.median(p50s))} ms)"
        rows.append(Row(f"p99 added to nginx's proxy_pass at {_PER_S} calls/s, {name}", figure))
    return rows


def _room(bench: Bench, server: Postgres, url: str, service: Service) -> list[Row]:
    """What a call leaves in the database for good: its ledger row with its index entries."""
    size = (
        "SELECT sum(pg_total_relation_size(inhrelid))::bigint FROM pg_inherits "
        "WHERE inhparent = 'ai_usage_log'::regclass"
    )
    before = int(str(server.run(url, size)))
    load = bench.caller(service).call(service.port, connections=256, duration_s=bench.plan.duration_s)
    bytes_of_call = (int(str(server.run(url, size))) - before) / load.calls
    a_month = bytes_of_call * 100 * _SECONDS_OF_A_MONTH / _GIBIBYTE
    return [
        Row(
            "Ledger on PostgreSQL, bytes for a call",
            f"{bytes_of_call:,.0f}, so {a_month:,.0f} GiB/month at 100 calls/s",
        )
    ]

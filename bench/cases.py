"""What is measured. Each case returns rows of figures, ratios against a baseline of the same run."""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec

from bench import nginx
from bench.arithmetic import growth_percent, median_ratio, per_call_us, significant
from bench.fill import fill_ledger, fill_tenants
from bench.load import Caller
from bench.postgres import Postgres
from bench.processes import cpu_s, resident_bytes
from bench.service import UNLIMITED, Build, Service, await_ready, launch, running, served_port, write_config

_MEBIBYTE = 1024 * 1024


class Plan(msgspec.Struct, frozen=True):
    """How long to measure.

    Attributes:
        rounds: measured in turn, so that what else the machine does falls on all alike; medians are reported.
    """

    build: Build
    rounds: int = 3
    duration_s: float = 5.0
    ledger_rows: int = 5_000_000
    tenants: int = 100_000
    memory_calls: int = 200_000
    jobs: int = 2000


class Row(msgspec.Struct, frozen=True):
    """One figure, and what it is a figure of."""

    what: str
    figure: str


class Bench:
    """A static provider, nginx's bare proxy in front of it, and services in front of it too."""

    def __init__(self, plan: Plan, home: Path, stack: ExitStack) -> None:
        self.plan = plan
        self.home = home
        self._stack = stack
        self.upstream = stack.enter_context(nginx.upstream(home))
        self.proxy = stack.enter_context(nginx.proxy(home, self.upstream.port))

    def postgres(self) -> Postgres:
        """Start a PostgreSQL server."""
        return self._stack.enter_context(Postgres(self.home))

    def instance(self, name: str, database_url: str | None, *, limits: str = UNLIMITED) -> Service:
        """Start a service on a database that others may share, or without a URL on one of its own."""
        home, port = self.home / name, self.upstream.port
        return self._stack.enter_context(running(self.plan.build, home, port, database_url, limits=limits))

    def caller(self, service: Service, tenants: int = 1) -> Caller:
        """Return who makes calls with a service's key."""
        return Caller(self.home, service.key, tenants)

    def service(self, name: str, prepare: Callable[[Path], None] | None = None, more: str = "") -> Service:
        """Start a service on a database of its own.

        Args:
            name: its folder's.
            prepare: fills the database while no service runs.
            more: what its configuration has besides.
        """
        home = self.home / name
        if prepare is not None:
            with running(self.plan.build, home, self.upstream.port):
                pass
            prepare(home / "tollhouse.db")
        return self._stack.enter_context(running(self.plan.build, home, self.upstream.port, more=more))

    def proxy_us(self, key: str, connections: int) -> float:
        """Return nginx's CPU per call, in microseconds."""
        return self._measured(self.proxy.pid, self.proxy.port, key, connections, 1)

    def service_us(self, service: Service, connections: int, tenants: int = 1) -> float:
        """Return a service's CPU per call, in microseconds."""
        return self._measured(service.pid, service.port, service.key, connections, tenants)

    def _measured(self, pid: int, port: int, key: str, connections: int, tenants: int) -> float:
        caller = Caller(self.home, key, tenants)
        before_s = cpu_s(pid)
        load = caller.call(port, connections=connections, duration_s=self.plan.duration_s)
        return per_call_us(cpu_s(pid) - before_s, load.calls)


@contextmanager
def opened(plan: Plan) -> Iterator[Bench]:
    """Start what every case needs, in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="tollhouse-bench-") as home, ExitStack() as stack:
        yield Bench(plan, Path(home), stack)


def cpu(bench: Bench) -> list[Row]:
    """CPU per call over that of nginx's bare ``proxy_pass``, reserve and settle both durable."""
    service = bench.service("cpu")
    rows = []
    for connections in (64, 256):
        proxied, served = [], []
        for _ in range(bench.plan.rounds):
            proxied.append(bench.proxy_us(service.key, connections))
            served.append(bench.service_us(service, connections))
        ratio = median_ratio(served, proxied)
        figure = (
            f"**{significant(ratio)}** ({significant(statistics.median(served))} µs over "
            f"{significant(statistics.median(proxied))} µs)"
        )
        rows.append(Row(f"CPU per call over nginx's proxy_pass, {connections} connections", figure))
    return rows


def tenants(bench: Bench) -> list[Row]:
    """The same with one and with many tenants in the database."""
    one = bench.service("one-tenant")
    many = bench.service("many-tenants", lambda database: fill_tenants(database, bench.plan.tenants))
    few, lots, spread = [], [], []
    for _ in range(bench.plan.rounds):
        few.append(bench.service_us(one, 256))
        lots.append(bench.service_us(many, 256))
        spread.append(bench.service_us(many, 256, bench.plan.tenants))
    count = f"{bench.plan.tenants:,}"
    return [
        Row(f"CPU per call with {count} tenants over 1, calls of one tenant", _growth(lots, few)),
        Row(f"CPU per call with {count} tenants over 1, calls spread over all", _growth(spread, few)),
    ]


def ledger(bench: Bench) -> list[Row]:
    """The same with a short and with a long ledger."""
    short = bench.service("short-ledger", lambda database: fill_ledger(database, 10))
    long = bench.service("long-ledger", lambda database: fill_ledger(database, bench.plan.ledger_rows))
    few, lots = [], []
    for _ in range(bench.plan.rounds):
        few.append(bench.service_us(short, 256))
        lots.append(bench.service_us(long, 256))
    return [Row(f"CPU per call with {bench.plan.ledger_rows:,} ledger rows over 10", _growth(lots, few))]


def memory(bench: Bench) -> list[Row]:
    """Resident memory at rest, and after many calls."""
    service = bench.service("memory")
    idle = resident_bytes(service.pid)
    caller = bench.caller(service)
    held, made = [], 0
    for quarter in range(1, 5):
        while made < bench.plan.memory_calls * quarter // 4:
            made += caller.call(service.port, connections=64, duration_s=2).calls
        held.append(f"{resident_bytes(service.pid) / _MEBIBYTE:.1f}")
    return [
        Row("Resident memory at rest", f"{idle / _MEBIBYTE:.1f} MiB"),
        Row(f"… after each quarter of {bench.plan.memory_calls:,} calls", ", ".join(held) + " MiB"),
    ]


def start(bench: Bench) -> list[Row]:
    """From exec to the first 200 of ``/readyz``, over starting Python alone."""
    build = bench.plan.build
    rows = []
    for what, keeps in (("without", False), ("with", True)):
        starts, bare = [], []
        for number in range(bench.plan.rounds):
            home = bench.home / ("start" if keeps else f"start-{number}")
            home.mkdir(exist_ok=True)
            if keeps and number == 0:
                with running(build, home, bench.upstream.port):
                    pass
            bare.append(_seconds(lambda: subprocess.run([str(build.python), "-c", "pass"], check=True)))
            starts.append(_start_s(build, home, bench.upstream.port))
        ratio = significant(median_ratio(starts, bare))
        figure = f"{significant(statistics.median(starts))} s ({ratio} times `python -c pass`)"
        rows.append(Row(f"Start to the first 200 of /readyz, {what} a database", figure))
    return rows


def _start_s(build: Build, home: Path, upstream_port: int) -> float:
    config = write_config(home, upstream_port)
    started_s = time.perf_counter()
    process = launch(build, config)
    try:
        await_ready(served_port(process, config), process)
        return time.perf_counter() - started_s
    finally:
        process.terminate()
        process.wait(30)


def _seconds(work: Callable[[], object]) -> float:
    started_s = time.perf_counter()
    work()
    return time.perf_counter() - started_s


def _growth(measured: list[float], baseline: list[float]) -> str:
    ratio = median_ratio(measured, baseline)
    return (
        f"{growth_percent(ratio):+.0f} % ({significant(statistics.median(measured))} µs over "
        f"{significant(statistics.median(baseline))} µs)"
    )


def interpreter(build: Build) -> str:
    """Describe the Python that the service runs on; builds without profile-guided optimisation are a third slower."""
    told = "import sys, sqlite3, sysconfig; a = sysconfig.get_config_var('CONFIG_ARGS') or ''; "
    told += "print(sys.version.split()[0], 'optimised' if 'optimizations' in a or '/usr/lib' in a else 'not optimised',"
    told += " 'SQLite', sqlite3.sqlite_version)"
    ran = subprocess.run([str(build.python), "-c", told], capture_output=True, text=True, check=True)
    return ran.stdout.strip() or sys.version

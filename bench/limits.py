"""What limits add to a call: the same calls with none, and with limits that are never reached."""

import statistics

from bench.arithmetic import per_call_us, significant
from bench.cases import Bench, Row
from bench.processes import cpu_s
from bench.service import UNLIMITED

_CONNECTIONS = 64
_CALLS = "requests_per_minute = 1000000000\nburst = 1000000000\n"
_ALL_KINDS = _CALLS + "tokens_per_minute = 1000000000\nconcurrent_calls = 1000000\n"
_ALL_OWNERS = _ALL_KINDS + "".join(f"[limits.{owner}]\n{_ALL_KINDS}" for owner in ("user", "feature", "key"))
_KINDS = {
    "none": UNLIMITED,
    "calls, of each tenant (as by default)": _CALLS,
    "calls, tokens and concurrency, of each tenant": _ALL_KINDS,
    "… and of each user, feature and key": _ALL_OWNERS,
}


def limits(bench: Bench) -> list[Row]:
    """CPU per call by which limits hold, each measured in turn: of the service, and of the PostgreSQL server."""
    server = bench.postgres()
    rows = []
    for engine in ("SQLite", "PostgreSQL"):
        services = [
            bench.instance(
                f"{engine}-{number}", None if engine == "SQLite" else server.new_database(), limits=configured
            )
            for number, configured in enumerate(_KINDS.values())
        ]
        for service in services:
            bench.caller(service).call(service.port, connections=_CONNECTIONS, duration_s=1)
        ours: list[list[float]] = [[] for _ in services]
        of_server: list[list[float]] = [[] for _ in services]
        for _ in range(bench.plan.rounds):
            for place, service in enumerate(services):
                before_s, server_before_s = cpu_s(service.pid), server.cpu_s()
                load = bench.caller(service).call(
                    service.port, connections=_CONNECTIONS, duration_s=bench.plan.duration_s
                )
                ours[place].append(per_call_us(cpu_s(service.pid) - before_s, load.calls))
                of_server[place].append(per_call_us(server.cpu_s() - server_before_s, load.calls))
        for place, kind in enumerate(_KINDS):
            figure = _figure(ours, place)
            if engine == "PostgreSQL":
                figure += f"; the server {_figure(of_server, place)}"
            rows.append(Row(f"CPU per call, {engine}, limits on {kind}", figure))
    return rows


def _figure(measured: list[list[float]], place: int) -> str:
    """Return a median, and by how much it is above that without limits: the median of the rounds' differences."""
    median = f"{significant(statistics.median(measured[place]))} µs"
    if not place:
        return median
    more = statistics.median(mine - none for mine, none in zip(measured[place], measured[0], strict=True))
    return f"{median} ({more:+.1f} µs)"

"""What queueing and running a job costs, beside plain pgqueuer in the same run."""

import json
import statistics
import subprocess
from collections.abc import Sequence
from pathlib import Path

from bench.arithmetic import median_ratio, per_call_us, significant
from bench.cases import Bench, Row
from bench.postgres import Postgres
from bench.service import environment

_ROOT = Path(__file__).resolve().parents[1]
_Figures = dict[str, float]


def jobs(bench: Bench) -> list[Row]:
    """CPU and jobs a second of queueing jobs and running them, where what they do takes no time."""
    server = bench.postgres()
    ours, theirs, embedded = [], [], []
    for number in range(bench.plan.rounds):
        ours.append(_on_server(bench, server, "tollhouse"))
        theirs.append(_on_server(bench, server, "pgqueuer"))
        embedded.append(_run(bench, "tollhouse", f"sqlite:///{bench.home / f'jobs-{number}.db'}"))
    count, both = bench.plan.jobs, ("enqueue_cpu_s", "run_cpu_s")
    return [
        Row("CPU of queueing and running a job over pgqueuer's", _ratio(ours, theirs, both, count)),
        Row("… of queueing alone", _ratio(ours, theirs, both[:1], count)),
        Row("… of running alone", _ratio(ours, theirs, both[1:], count)),
        Row("… of the PostgreSQL server beside both", _ratio(ours, theirs, ("server_cpu_s",), count)),
        Row("Jobs/s queued one by one and run, over pgqueuer's", _speed(ours, theirs, count)),
        Row("CPU of queueing and running a job, SQLite over PostgreSQL", _ratio(embedded, ours, both, count)),
    ]


def _on_server(bench: Bench, server: Postgres, what: str) -> _Figures:
    url = server.new_database()
    before_s = server.all_cpu_s()
    figures = _run(bench, what, url)
    return {**figures, "server_cpu_s": server.all_cpu_s() - before_s}


def _run(bench: Bench, what: str, url: str) -> _Figures:
    command = [str(bench.plan.build.python), "-m", "bench.jobs", what, url, str(bench.plan.jobs)]
    environ = environment(bench.plan.build)
    environ["PYTHONPATH"] = ":".join(filter(None, (environ.get("PYTHONPATH"), str(_ROOT))))
    ran = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=600, check=False)
    if ran.returncode:
        raise RuntimeError(f"{' '.join(command)}:\n{ran.stderr[-2000:]}")
    figures: _Figures = json.loads(ran.stdout.splitlines()[-1])
    return figures


def _ratio(ours: Sequence[_Figures], theirs: Sequence[_Figures], names: Sequence[str], count: int) -> str:
    measured, baseline = (
        [per_call_us(sum(each[name] for name in names), count) for each in rounds] for rounds in (ours, theirs)
    )
    return (
        f"**{significant(median_ratio(measured, baseline))}** ({significant(statistics.median(measured))} µs over "
        f"{significant(statistics.median(baseline))} µs)"
    )


def _speed(ours: Sequence[_Figures], theirs: Sequence[_Figures], count: int) -> str:
    measured, baseline = ([count / (each["enqueue_s"] + each["run_s"]) for each in rounds] for rounds in (ours, theirs))
    return (
        f"**{significant(median_ratio(measured, baseline))}** ({significant(statistics.median(measured))}/s over "
        f"{significant(statistics.median(baseline))}/s)"
    )

"""``python -m bench [CASE …] [--quick] [--python PATH] [--write]``: measure, and print or keep the figures."""

import argparse
import platform
import sys
from pathlib import Path

from bench import nginx
from bench.cases import Plan, Row, cpu, interpreter, ledger, memory, opened, start, tenants
from bench.cluster import postgres
from bench.followers import followers
from bench.guarded import guardrails
from bench.instructions import instructions
from bench.limits import limits
from bench.queueing import jobs
from bench.service import Build
from bench.streams import streams

_PAGE = Path(__file__).resolve().parents[1] / "docs" / "benchmarks.md"
CASES = {
    "cpu": cpu,
    "streams": streams,
    "followers": followers,
    "postgres": postgres,
    "limits": limits,
    "guardrails": guardrails,
    "instructions": instructions,
    "jobs": jobs,
    "tenants": tenants,
    "ledger": ledger,
    "memory": memory,
    "start": start,
}
_BEGIN, _END = "<!-- results -->", "<!-- /results -->"


def main() -> int:
    """Run the cases named, or all."""
    arguments = _parser().parse_args()
    build = Build(arguments.python, arguments.source)
    plan = Plan(build)
    if arguments.quick:
        plan = Plan(build, rounds=1, duration_s=2, ledger_rows=200_000, tenants=10_000, memory_calls=20_000, jobs=500)
    rows: list[Row] = []
    for name in arguments.cases or CASES:
        with opened(plan) as bench:
            for row in CASES[name](bench):
                print(f"{row.what}: {row.figure}", flush=True)
                rows.append(row)
    if arguments.write:
        _write(rows, f"Python {interpreter(build)}, nginx {nginx.version()}, {platform.machine()}, {_cores()}.")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("cases", nargs="*", choices=[[], *CASES], help="what to measure; all, if left out")
    parser.add_argument("--quick", action="store_true", help="one short round on small databases, to try it out")
    parser.add_argument("--python", type=Path, default=Path(sys.executable), help="the Python that the service runs on")
    parser.add_argument("--source", type=Path, help="the folder that holds another tollhouse package to measure")
    parser.add_argument("--write", action="store_true", help=f"put the figures into {_PAGE.name}")
    return parser


def _cores() -> str:
    models = [
        line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "name" in line
    ]
    return f"{len(models)} cores of {models[0] if models else 'an unknown processor'}"


def _write(rows: list[Row], where: str) -> None:
    page = _PAGE.read_text()
    table = "\n".join(["| what | figure |", "|---|---|", *(f"| {row.what} | {row.figure} |" for row in rows)])
    before, _, rest = page.partition(_BEGIN)
    _PAGE.write_text(f"{before}{_BEGIN}\n{where}\n\n{table}\n{_END}{rest.partition(_END)[2]}")


if __name__ == "__main__":
    sys.exit(main())

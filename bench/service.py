"""A Tollhouse under measurement: ``tollhouse serve`` on its defaults, but for the rate limit and the pool's size."""

import http.client
import json
import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from bench.processes import stop

ADMIN_KEY = "an-admin-key-of-the-benchmarks"
TENANT = 42

# One tenant makes all calls, so it has no rate limit; and the pool must not be what calls wait for.
_CONFIG = """
[server]
port = 0

[database]
url = "{database_url}"

[auth]
admin_key = "env:BENCH_ADMIN_KEY"

[providers.upstream]
kind = "openai"
base_url = "http://127.0.0.1:{upstream_port}/v1"
api_key = "env:BENCH_PROVIDER_KEY"
max_connections = 1000

[models."gpt-4o-mini"]
provider = "upstream"
price = {{ input = 0.15, output = 0.60 }}

[limits]
{limits}

[tiers.bench]
budget_usd = 1000000000
"""


UNLIMITED = "requests_per_minute = 0"


class Build(msgspec.Struct, frozen=True):
    """Which Tollhouse runs, and on which Python.

    Attributes:
        source: the folder that holds the package ``tollhouse``; None for the installed one.
    """

    python: Path
    source: Path | None = None


class Service(msgspec.Struct, frozen=True):
    """A running Tollhouse."""

    port: int
    pid: int
    key: str
    """A service key for every tenant."""


def environment(build: Build) -> dict[str, str]:
    """Return the environment that a build runs in."""
    environ = {**os.environ, "BENCH_ADMIN_KEY": ADMIN_KEY, "BENCH_PROVIDER_KEY": "sk-of-nobody"}
    environ.pop("PYTHONPATH", None)
    if build.source is not None:
        environ["PYTHONPATH"] = str(build.source)
    return environ


def write_config(
    home: Path, upstream_port: int, database_url: str | None = None, *, limits: str = UNLIMITED, more: str = ""
) -> Path:
    """Write a configuration, and ``more`` of it, and return its path.

    Without a URL its database is in the same folder.
    """
    config = home / "tollhouse.toml"
    database_url = database_url or f"sqlite:///{home.resolve() / 'tollhouse.db'}"
    config.write_text(_CONFIG.format(database_url=database_url, upstream_port=upstream_port, limits=limits) + more)
    return config


def launch(build: Build, config: Path, under: Sequence[str] = ()) -> subprocess.Popen[str]:
    """Start the server; its first line on standard output says that it serves, and where.

    Args:
        under: the command of a program that runs it.
    """
    command = [*under, str(build.python), "-m", "tollhouse", "serve", "-c", str(config)]
    log = config.with_name("server.log").open("a")
    with log:
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True, env=environment(build))


@contextmanager
def running(
    build: Build,
    home: Path,
    upstream_port: int,
    database_url: str | None = None,
    *,
    limits: str = UNLIMITED,
    more: str = "",
    under: Sequence[str] = (),
) -> Iterator[Service]:
    """Run a Tollhouse, with tenant 42 active and a key to call with; without a URL its database is in ``home``."""
    home.mkdir(parents=True, exist_ok=True)
    config = write_config(home, upstream_port, database_url, limits=limits, more=more)
    process = launch(build, config, under)
    try:
        port = served_port(process, config)
        budget = {"tier": "bench", "is_active": True, "budget_usd": 1_000_000_000}
        ask(port, "PUT", f"/admin/tenants/{TENANT}", budget)
        key = ask(port, "POST", "/admin/keys", {"service": "bench", "role": "service", "tenants": None})["key"]
        yield Service(port, process.pid, key)
    finally:
        # Whatever it runs under may take its time.
        stop(process, 600.0 if under else 30.0)


def served_port(process: subprocess.Popen[str], config: Path) -> int:
    """Wait until a server serves; raises RuntimeError when it ends instead."""
    assert process.stdout is not None
    told = process.stdout.readline()
    if not told:
        log = config.with_name("server.log").read_text()
        raise RuntimeError(f"the server did not start:\n{log[-2000:]}")
    return int(told.rpartition(":")[2])


def ask(port: int, method: str, path: str, body: Mapping[str, Any] | None = None) -> Any:
    """Ask the control plane as its administrator; raises RuntimeError when it refuses."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    headers = {"Authorization": f"Bearer {ADMIN_KEY}", "Content-Type": "application/json"}
    try:
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        text = answer.read()
        if answer.status >= 400:
            raise RuntimeError(f"{method} {path}: {answer.status} {text!r}")
        return json.loads(text) if text else None
    finally:
        connection.close()


def is_ready(port: int) -> bool:
    """Return whether ``/readyz`` answers 200 now."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def await_ready(port: int, process: subprocess.Popen[str], give_up_s: float = 30) -> None:
    """Wait for ``/readyz`` to answer 200; raises RuntimeError when the process ends, or it takes too long."""
    started_s = time.monotonic()
    while not is_ready(port):
        if process.poll() is not None or time.monotonic() - started_s > give_up_s:
            raise RuntimeError("the server did not get ready")
        time.sleep(0.001)

"""A real ``tollhouse serve`` process in a directory of its own, whose providers are fakes."""

import contextlib
import http.client
import itertools
import json
import os
import select
import signal
import socket
import sqlite3
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import IO, Any, Self, TypeVar
from urllib.parse import quote

import psycopg
from psycopg.rows import dict_row

from harness import engines
from harness.forking import ForkedProcess, can_fork, run_forked
from tollhouse.cli.books import read_books
from tollhouse.config import Database
from tollhouse.ledger.verify import Finding, verify
from tollhouse.testing import FakeProvider
from tollhouse.testing.behaviour import Format

T = TypeVar("T")
TenantId = int | str

ADMIN_KEY = "admin-key-of-the-tests-0123456789"
PROVIDER_KEY = "sk-4cc0unt-of-the-tests-0123456789"
SECRETS = {"TEST_ADMIN_KEY": ADMIN_KEY, "TEST_PROVIDER_KEY": PROVIDER_KEY}
"""The environment that configurations of tests name."""
# Short, so that what a killed instance left is held soon; on SQLite it means nothing.
LEASE_S = 2
NO_BREAKER = "[breaker]\nenabled = false\n"
"""For tests whose providers fail on purpose, again and again."""
NO_SHEDDING = "[shedding]\nmax_lag_s = 60\n"
"""For tests that put more on a service than the machine that they run on may carry."""
DATABASE_KEYS = f"lease_s = {LEASE_S}\n"
TOLLHOUSE: list[str | Path] = ["-m", "tollhouse"]
_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 60.0
_ANSWER_TIMEOUT_S = 60.0
_numbers = itertools.count(1)


class Reply:
    """An answer over HTTP; amounts of its JSON are exact."""

    def __init__(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body

    @property
    def json(self) -> Any:
        return json.loads(self.body, parse_float=Decimal)

    @property
    def code(self) -> str:
        """The error's code, once the form of the error is checked."""
        return self._error()[0]

    @property
    def message(self) -> str:
        """The error's message, once the form of the error is checked."""
        return self._error()[1]

    def _error(self) -> tuple[str, str]:
        body = self.json
        assert set(body) == {"error", "message", "request_id"}, body
        assert body["request_id"] == self.headers["x-request-id"]
        assert self.headers["content-type"] == "application/json"
        return body["error"], body["message"]

    def __repr__(self) -> str:
        return f"Reply({self.status}, {self.body[:500]!r})"


class Service:
    """A ``tollhouse serve`` process that can be started, stopped, killed and started again on its database.

    Args:
        directory: where configuration, database and logs are.
        config: the configuration but for its server, database and auth sections.
        server: further keys of the server section.
        database: the file of the database, or what stands for it on a server.
        url: a database that is there already, such as another instance's, in its place.

    Attributes:
        command: what the process is.
        program: what the interpreter runs, ahead of the command.
        environ: the environment of the process.
        tls: what it is asked with, where it serves TLS.
    """

    command = "serve"

    def __init__(
        self, directory: Path, config: str, *, server: str = "", database: Path | None = None, url: str | None = None
    ) -> None:
        self.directory = directory
        self.database = database or directory / "tollhouse.db"
        self.database_url = url or engines.database_url(self.database)
        self.config_file = directory / "tollhouse.toml"
        self.log_file = directory / "log"
        self.port = 0
        self.tls: ssl.SSLContext | None = None
        self.program: list[str | Path] = [*TOLLHOUSE]
        self._process: subprocess.Popen[bytes] | ForkedProcess | None = None
        self.config_file.write_text(
            f'[server]\nport = 0\n{server}\n[database]\nurl = "{self.database_url}"\n{DATABASE_KEYS}'
            f'[auth]\nadmin_key = "env:TEST_ADMIN_KEY"\n{config}'
        )
        self.environ = {**_environ(), **SECRETS, "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}

    # Its life.

    def start(self) -> Self:
        """Start the process and wait until it serves; its log goes on in the same file."""
        with self.log_file.open("ab") as log:
            self._process = self._spawn([*self.program, self.command, "-c", self.config_file], log)
        assert self._process.stdout is not None
        ready, _, _ = select.select([self._process.stdout], [], [], _START_TIMEOUT_S)
        line = self._process.stdout.readline().decode() if ready else ""
        if "serves at" not in line:
            self.kill()
            raise AssertionError(f"it did not start: {line!r}\n{self.log()[-2000:]}")
        self.port = int(line.rsplit(":", 1)[1])
        return self

    def _spawn(self, command: list[str | Path], log: IO[bytes]) -> "subprocess.Popen[bytes] | ForkedProcess":
        if can_fork(self.environ):
            return ForkedProcess(command, stderr=log, cwd=self.directory, environ=self.environ)
        return subprocess.Popen(
            [sys.executable, *command], stdout=subprocess.PIPE, stderr=log, cwd=self.directory, env=self.environ
        )

    @property
    def process(self) -> "subprocess.Popen[bytes] | ForkedProcess":
        assert self._process is not None, "it has been started"
        return self._process

    def kill(self) -> None:
        """End the process as a crash would."""
        self.process.kill()
        self._reap()

    def has_died(self) -> bool:
        """Whether the process has ended by itself; it may be started again then."""
        if self.process.poll() is None:
            return False
        self._reap()
        return True

    def terminate(self) -> int:
        """Ask the process to stop, wait until it has, and return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self._reap()

    def _reap(self) -> int:
        try:
            return self.process.wait(_STOP_TIMEOUT_S)
        finally:
            if self.process.stdout is not None:
                self.process.stdout.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        if self.process.stdout is None or self.process.stdout.closed:
            return
        assert self.process.poll() is None, f"it ended by itself with {self.process.poll()}:\n{self.log()[-2000:]}"
        try:
            self.terminate()
        except subprocess.TimeoutExpired:
            self.kill()
            raise

    def log(self) -> str:
        return self.log_file.read_text()

    # What it is asked.

    def request(
        self, method: str, path: str, body: object = None, *, key: str | None = ADMIN_KEY, **headers: str
    ) -> Reply:
        """Send a request on a connection of its own; a body that is not bytes is sent as JSON."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        if key is not None:
            named["Authorization"] = f"Bearer {key}"
        sent = body if isinstance(body, bytes | Iterator | None) else json.dumps(body).encode()
        with contextlib.closing(self.connection()) as connection:
            connection.request(method, path, sent, named)
            return reply_to(connection)

    def connection(self) -> http.client.HTTPConnection:
        if self.tls is not None:
            return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=_ANSWER_TIMEOUT_S, context=self.tls)
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=_ANSWER_TIMEOUT_S)

    def socket(self) -> socket.socket:
        """Return a connection that sends whatever bytes a test likes."""
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=_ANSWER_TIMEOUT_S)
        return plain if self.tls is None else self.tls.wrap_socket(plain, server_hostname="127.0.0.1")

    def complete(self, body: object, *, key: str | None = ADMIN_KEY, **headers: str) -> Reply:
        return self.request("POST", "/ai/complete", body, key=key, **headers)

    def admin(self, method: str, path: str, body: object = None) -> Any:
        """Send an administrator's request that has to succeed, and return its JSON."""
        reply = self.request(method, path, body)
        assert reply.status in {200, 204}, reply
        return reply.json if reply.body else None

    def tenant(self, tenant_id: TenantId | None = None, **changes: object) -> TenantId:
        """Create an active tenant, or change one; return its id, which is a new one unless given."""
        tenant_id = next(_numbers) + 1000 if tenant_id is None else tenant_id
        path = f"/admin/tenants/{quote(str(tenant_id), safe='')}"
        self.admin("PUT", path, {"is_active": True, "budget_usd": 1000, **changes})
        return tenant_id

    def new_key(self, **wanted: object) -> Any:
        """Create a service key; return its ``key_id`` and ``key``."""
        return self.admin("POST", "/admin/keys", {"service": "tests", **wanted})

    # What it has written.

    def query(self, statement: str, *values: object) -> list[dict[str, Any]]:
        """Read from the database, beside the process that serves from it; values take the place of question marks."""
        if self.database_url.startswith("postgresql:"):
            with psycopg.connect(self.database_url, row_factory=dict_row) as connection:
                return connection.execute(statement.replace("?", "%s"), values).fetchall()
        uri = f"{self.database.as_uri()}?mode=ro"
        with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=10)) as connection:
            connection.row_factory = sqlite3.Row
            return [dict(row) for row in connection.execute(statement, values)]

    def rows(self, **where: object) -> list[dict[str, Any]]:
        """Return the ledger's rows with the given values, the oldest first."""
        condition = " AND ".join(f"{name} = ?" for name in where) or "1 = 1"
        values = [str(value) if name in {"tenant_id", "user_id"} else value for name, value in where.items()]
        return self.query(f"SELECT * FROM ai_usage_log WHERE {condition} ORDER BY id", *values)

    def budget(self, tenant_id: TenantId, scope: str = "tenant", scope_id: str = "") -> dict[str, Any]:
        """Return cap, posted and reserved of a budget in the running month."""
        found = self.query(
            "SELECT cap_nano_usd, posted_nano_usd, reserved_nano_usd FROM ai_budgets "
            "WHERE tenant_id = ? AND scope = ? AND scope_id = ? ORDER BY billing_period DESC LIMIT 1",
            str(tenant_id),
            scope,
            scope_id,
        )
        return found[0] if found else {"cap_nano_usd": 0, "posted_nano_usd": 0, "reserved_nano_usd": 0}

    def open_reservations(self) -> list[dict[str, Any]]:
        return self.query("SELECT * FROM ai_reservations WHERE state = 'open'")

    def findings(self) -> list[Finding]:
        """Return what ``tollhouse verify`` would find, without the seconds that a process takes to start."""
        return read_books(Database(url=self.database_url), verify).findings

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command with this service's configuration, beside the process too."""
        return run(self.directory, *arguments, "-c", str(self.config_file), **SECRETS)

    def verify(self) -> subprocess.CompletedProcess[str]:
        """Run ``tollhouse verify``, which works beside the process too."""
        return self.run("verify")


def _environ() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("TOLLHOUSE_")}


def run(directory: Path, *arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a command, which has to end by itself, in a directory."""
    environ = _environ() | environ
    if can_fork(environ):
        return run_forked([*TOLLHOUSE, *arguments], cwd=directory, environ=environ, timeout_s=_STOP_TIMEOUT_S)
    return subprocess.run(
        [sys.executable, *TOLLHOUSE, *arguments],
        capture_output=True,
        text=True,
        cwd=directory,
        env=environ,
        timeout=_STOP_TIMEOUT_S,
        check=False,
    )


def refused(result: subprocess.CompletedProcess[str]) -> str:
    """Return why a command could not do its work, once it is known to have been told as it should."""
    assert result.returncode == 2, result
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    lines = result.stderr.splitlines()
    assert lines
    assert all(line.startswith("tollhouse: error: ") for line in lines), result.stderr
    return result.stderr


def change_by_hand(url: str, statement: str) -> None:
    """Change a database as somebody with a shell could."""
    if url.startswith("postgresql:"):
        with psycopg.connect(url) as server:
            server.execute(statement.encode())
        return
    with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as file, file:
        file.execute(statement)


def reply_to(connection: http.client.HTTPConnection) -> Reply:
    """Read the answer to what was sent on a connection."""
    response = connection.getresponse()
    headers = {name.lower(): value for name, value in response.getheaders()}
    return Reply(response.status, headers, response.read())


def provider(name: str, kind: str, base_url: str, **keys: object) -> str:
    """Return the section of a provider."""
    lines = [f'[providers.{name}]\nkind = "{kind}"\nbase_url = "{base_url}"\napi_key = "env:TEST_PROVIDER_KEY"']
    return "\n".join([*lines, *(f"{key} = {json.dumps(value)}" for key, value in keys.items()), ""])


def model(name: str, of: str, *, price: str | None = "input = 0.80, output = 4.00", **keys: object) -> str:
    """Return the section of a model at a provider; ``price`` is the inside of its table."""
    lines = [f'[models."{name}"]\nprovider = "{of}"']
    if price is not None:
        lines.append(f"price = {{ {price} }}")
    return "\n".join([*lines, *(f"{key} = {json.dumps(value)}" for key, value in keys.items()), ""])


def limits(**keys: object) -> str:
    """Return the section of limits: without a rate limit, unless given."""
    keys = {"requests_per_minute": 0, **keys}
    return "\n".join(["[limits]", *(f"{key} = {json.dumps(value)}" for key, value in keys.items()), ""])


def providers(fake: FakeProvider, **keys: object) -> str:
    """Return a provider of each kind, named after its kind, served by a fake."""
    kinds: tuple[Format, ...] = ("anthropic", "openai", "deepseek", "gemini")
    return "".join(provider(kind, kind, fake.base_url(kind), **keys) for kind in kinds)


def eventually(condition: Callable[[], T], timeout_s: float = 20.0) -> T:
    """Wait until a condition holds, and return what it gives."""
    deadline_s = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline_s, "it did not come about in time"
        time.sleep(0.01)
    return found


def free_port() -> int:
    """Return a port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextlib.contextmanager
def serving(
    directory: Path, config: str, *, server: str = "", database: Path | None = None, url: str | None = None
) -> Iterator[Service]:
    """Run a service; see ``Service``."""
    with Service(directory, config, server=server, database=database, url=url) as service:
        yield service

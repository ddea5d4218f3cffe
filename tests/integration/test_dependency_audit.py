"""The audit of what the project depends on, by a service that knows of vulnerabilities, of none, or says nothing."""

import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# The release that the audit asks about first, to see whether it is answered.
PROBED = ("jinja2", "2.4.1")
pytestmark = pytest.mark.engine("sqlite")
VULNERABILITY = {"id": "GHSA-xxxx-test-only", "modified": "2026-01-01T00:00:00Z"}
TOLD = {**VULNERABILITY, "summary": "made up", "published": "2026-01-01T00:00:00Z", "affected": []}


@contextmanager
def osv(*, probed: bool = True, vulnerable: str = "") -> Iterator[tuple[str, list[str]]]:
    """Serve OSV's API; yields its address, and the packages it is asked about."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            queries = body.get("queries", [body])
            releases = [(query["package"]["name"], query["version"]) for query in queries]
            found = [
                {"vulns": [VULNERABILITY]} if name == vulnerable or (probed and (name, version) == PROBED) else {}
                for name, version in releases
            ]
            if "queries" in body:
                asked.extend(name for name, _ in releases)
            self._tell({"results": found} if "queries" in body else found[0])

        def do_GET(self) -> None:
            self._tell(TOLD)

        def _tell(self, told: object) -> None:
            body = json.dumps(told).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def audit(service: str, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts/audit.py"), "--service", service, *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_a_known_vulnerability_of_what_is_locked_fails_it_by_name():
    with osv(vulnerable="uvicorn") as (service, asked):
        done = audit(service)

    assert done.returncode == 1, done
    assert "uvicorn" in done.stdout
    assert VULNERABILITY["id"] in done.stdout
    # What the tests and the extras bring is asked about too.
    assert {"uvicorn", "msgspec", "pytest"} <= set(asked)


def test_without_any_it_passes():
    with osv() as (service, asked):
        done = audit(service)

    assert "jinja2" in asked

    assert (done.returncode, "NOT AUDITED" in done.stderr) == (0, False), done


@pytest.mark.parametrize("kind", ["refuses", "is silent", "knows nothing"])
def test_whoever_cannot_be_asked_is_told_of_and_fails_only_where_that_is_required(kind: str):
    with (
        osv(probed=False) as (ignorant, _),
        socket.create_server(("127.0.0.1", 0)) as silent,
        socket.socket() as closed,
    ):
        closed.bind(("127.0.0.1", 0))
        ports = {"refuses": closed.getsockname()[1], "is silent": silent.getsockname()[1]}
        service = ignorant if kind == "knows nothing" else f"http://127.0.0.1:{ports[kind]}"
        done, required = audit(service, "--timeout-s", "1"), audit(service, "--timeout-s", "1", "--required")

    assert done.returncode == 0, done
    assert f"NOT AUDITED: {service}/ could not be asked" in done.stderr
    assert required.returncode == 1

"""How commands reach the data: through the process that owns the database, which may become this one.

A SQLite file has one owner. While a server runs, commands ask it over HTTP; otherwise, and on PostgreSQL always, they
assemble the same control plane here. Either way they use the admin routes, so that checks and messages are the same.
"""

import asyncio
import http.client
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AsyncExitStack, ExitStack, contextmanager
from decimal import Decimal
from typing import Any, TypeVar
from urllib.parse import urlencode, urlsplit

import msgspec

from tollhouse.cli.options import Options, Refused
from tollhouse.config import Config, Secrets, resolve_secrets
from tollhouse.errors import StartError
from tollhouse.kit.clock import SystemClock
from tollhouse.storage.lock import DatabaseInUse, DatabaseLock, Owner
from tollhouse.telemetry.logs import configure_logs

T = TypeVar("T")
Send = Callable[[str, str, dict[str, str], bytes], tuple[int, bytes]]
"""Sends a method, a target, headers and a body; returns the answer's status and body."""

_PATIENCE_S = 5.0
_RETRY_EVERY_S = 0.1
_ANSWER_TIMEOUT_S = 60.0
_REFUSED_FROM = 400

# Amounts of money come as JSON numbers, and must not become floats on the way to the screen.
_decoder = msgspec.json.Decoder(float_hook=Decimal)
_encoder = msgspec.json.Encoder(decimal_format="number")


class Answer(msgspec.Struct, frozen=True):
    """What the control plane answered."""

    body: bytes

    @property
    def value(self) -> Any:
        """The body's JSON, numbers with a decimal point as Decimal; None when there is none."""
        return _decoder.decode(self.body) if self.body else None


class Session:
    """Requests to the control plane with a super-admin's key."""

    def __init__(self, send: Send, token: str) -> None:
        self._send = send
        self._headers = {"authorization": f"Bearer {token}", "host": "localhost"}

    def request(
        self, method: str, path: str, body: object = None, query: Mapping[str, object | None] | None = None
    ) -> Answer:
        """Ask, and return the answer.

        Args:
            path: percent-encoded where it needs to be.
            body: what is sent as JSON; None sends nothing.
            query: parameters; those that are None are left out.

        Raises:
            Refused: the service refused, for the reason given.
            StartError: the server that owns the database does not answer.
        """
        given = {name: value for name, value in (query or {}).items() if value is not None}
        target = f"{path}?{urlencode(given)}" if given else path
        content = b"" if body is None else _encoder.encode(body)
        headers = self._headers | {"content-length": str(len(content))}
        if body is not None:
            headers["content-type"] = "application/json"
        status, answer = self._send(method, target, headers, content)
        if status >= _REFUSED_FROM:
            raise Refused(_message(status, answer), status)
        return Answer(answer)

    def find(self, path: str) -> Answer | None:
        """Ask for what may not exist: None when it does not. Raises as ``request``."""
        try:
            return self.request("GET", path)
        except Refused as refusal:
            if refusal.status == http.HTTPStatus.NOT_FOUND:
                return None
            raise

    def pages(
        self,
        path: str,
        name: str,
        query: Mapping[str, object | None],
        *,
        cursor: tuple[str, str],
        most: int | None = None,
    ) -> list[Any]:
        """Ask for every page of a list, or as many as it takes; raises as ``request``.

        Args:
            name: the list's field in each page.
            cursor: the parameter that asks for the next page, and the field that says which that is.
            most: how many entries are wanted; None for all.
        """
        parameter, field = cursor
        found: list[Any] = []
        after = None
        while most is None or len(found) < most:
            page = self.request("GET", path, query={**query, parameter: after}).value
            found += page[name]
            after = page[field]
            if after is None:
                break
        return found[:most]


@contextmanager
def open_session(options: Options) -> Iterator[Session]:
    """Reach the control plane, for as long as the context lasts; raises StartError."""
    configure_logs(as_json=False, level="warning")
    config = options.config()
    secrets = resolve_secrets(config, options.environ, providers=False)
    with ExitStack() as stack:
        if not config.database.is_embedded:
            yield stack.enter_context(_control_plane(config, secrets))
            return
        try:
            session = outlast_commands(lambda: stack.enter_context(_embedded(config, secrets)))
        except DatabaseInUse as error:
            if error.owner is None or not error.owner.url:
                raise
            session = Session(_over_http(error.owner), error.owner.operator_token)
        yield session


def outlast_commands(work: Callable[[], T]) -> T:
    """Do what needs the database; while another command has it, wait for that to end and try again.

    Raises:
        DatabaseInUse: a server owns the database, or a command that goes on for longer than some seconds.
    """
    clock = SystemClock()
    give_up_s = clock.monotonic_s() + _PATIENCE_S
    while True:
        try:
            return work()
        except DatabaseInUse as error:
            is_server = error.owner is not None and error.owner.url
            if is_server or clock.monotonic_s() >= give_up_s:
                raise
        time.sleep(_RETRY_EVERY_S)


@contextmanager
def _embedded(config: Config, secrets: Secrets) -> Iterator[Session]:
    """Own the database and serve the session from within this process; raises DatabaseInUse, StartError."""
    # Asked before the control plane is imported, since a command that finds a server running needs none of it.
    with DatabaseLock(config.database.sqlite_path):
        pass
    with _control_plane(config, secrets) as session:
        yield session


@contextmanager
def _control_plane(config: Config, secrets: Secrets) -> Iterator[Session]:
    """Serve the session from within this process; raises DatabaseInUse, StartError."""
    from tollhouse.cli.asgi_client import ask
    from tollhouse.wiring.control import open_control_plane

    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        try:
            app, token = runner.run(stack.enter_async_context(open_control_plane(config, secrets)))
            yield Session(lambda *request: runner.run(ask(app, *request)), token)
        finally:
            runner.run(stack.aclose())


def _over_http(owner: Owner) -> Send:
    """Send to the server that owns the database."""
    url = owner.commands_url or owner.url
    server = urlsplit(url)
    assert server.hostname is not None, "a server's URL has a host"

    def send(method: str, target: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        connection = http.client.HTTPConnection(str(server.hostname), server.port, timeout=_ANSWER_TIMEOUT_S)
        try:
            connection.request(method, target, body, headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException) as error:
            raise StartError(
                f"process {owner.pid} owns the database, but does not answer at {url}: {error}; "
                "expected a running server, or none at all"
            ) from error
        finally:
            connection.close()

    return send


def _message(status: int, body: bytes) -> str:
    try:
        return str(msgspec.json.decode(body)["message"])
    except (msgspec.DecodeError, KeyError, TypeError):
        return f"the service answered with HTTP status {status}"

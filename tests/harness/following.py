"""Clients that follow a running service's events, and events for them to follow."""

import contextlib
import http.client
import json
import sqlite3
import time
from collections.abc import Iterator
from typing import Any, Protocol, Self
from urllib.parse import urlencode

import sqlalchemy as sa

from harness.service import ADMIN_KEY, Service, TenantId
from tollhouse.events import outbox
from tollhouse.events.model import NewEvent
from tollhouse.providers.sse import EventParser

_PATIENCE_S = 20.0


def tell(
    service: Service, *subjects: object, tenant_id: TenantId, user_id: TenantId = "", kind: str = "ai.job.completed"
) -> None:
    """Write events beside the service, in one transaction."""
    now_ms = time.time_ns() // 1_000_000
    events = [NewEvent(kind, str(tenant_id), str(user_id), str(each), {"n": each}, now_ms) for each in subjects]
    with writing(service) as connection:
        outbox.append_all(connection, events)


@contextlib.contextmanager
def writing(service: Service) -> Iterator[sa.Connection]:
    """Open a transaction beside the service."""
    if service.database_url.startswith("postgresql:"):
        engine = sa.create_engine(service.database_url.replace("postgresql:", "postgresql+psycopg:"))
        with engine.begin() as connection:
            yield connection
        engine.dispose()
        return
    raw = sqlite3.connect(service.database, isolation_level=None, timeout=_PATIENCE_S)
    engine = sa.create_engine("sqlite://", creator=lambda: raw, poolclass=sa.StaticPool, isolation_level="AUTOCOMMIT")
    with contextlib.closing(raw), engine.connect() as connection:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        yield connection
        connection.exec_driver_sql("COMMIT")


def target(path: str = "/events", **parameters: object) -> str:
    """Return a request's target with those parameters that are not None."""
    given = {name: value for name, value in parameters.items() if value is not None}
    return f"{path}?{urlencode(given)}" if given else path


class Reached(Protocol):
    """What a client can connect to: a service, or an edge in front of some."""

    def connection(self) -> http.client.HTTPConnection: ...


class Stream:
    """A stream of events (SSE) as a browser reads it.

    Attributes:
        last_event_id: what it would send when it connects again.
    """

    def __init__(self, service: Reached, *, key: str | None = ADMIN_KEY, last: object = None, **parameters: object):
        self.connection = service.connection()
        headers = {"Accept": "text/event-stream"}
        if key is not None:
            headers["Authorization"] = f"Bearer {key}"
        if last is not None:
            headers["Last-Event-ID"] = str(last)
        self.connection.request("GET", target("/events", **parameters), headers=headers)
        self.answer: http.client.HTTPResponse = self.connection.getresponse()
        self.last_event_id = ""
        self._parser = EventParser(1 << 20)
        self._waiting: list[Any] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()

    def take(self, count: int) -> list[Any]:
        """Return the next events, as CloudEvents."""
        while len(self._waiting) < count:
            data = self.answer.read1(65536)
            assert data, f"the stream ended after {len(self._waiting)} of {count} events"
            self._read(data)
        taken, self._waiting = self._waiting[:count], self._waiting[count:]
        return taken

    def wait_for_id(self, position: object) -> None:
        """Read until the stream has come to a position."""
        while self.last_event_id != str(position):
            data = self.answer.read1(65536)
            assert data, "the stream ended"
            self._read(data)

    def wait_for_any_id(self) -> None:
        """Read until the stream has said from where it begins."""
        while not self.last_event_id:
            data = self.answer.read1(65536)
            assert data, "the stream ended"
            self._read(data)

    def _read(self, data: bytes) -> None:
        for event in self._parser.feed(data):
            for line in event.raw.split(b"\n"):
                if line.startswith(b"id: "):
                    self.last_event_id = line[4:].decode()
            if event.data:
                self._waiting.append(json.loads(event.data))

    def until_it_ends(self) -> Iterator[Any]:
        """Return the events that come until the service ends the stream or hangs up."""
        with contextlib.suppress(http.client.HTTPException, ConnectionError):
            while data := self.answer.read1(65536):
                self._read(data)
        taken, self._waiting = self._waiting, []
        yield from taken

    def rest(self) -> bytes:
        """Return what comes until the service ends the stream."""
        return self.answer.read()


def subjects(events: list[Any]) -> list[str]:
    return [event["subject"] for event in events]

"""Each test runs on each engine, unless it is marked for one; and a control plane served over real HTTP."""

import asyncio
import http.client
import json
import socket
import threading
from collections.abc import Coroutine, Iterator
from contextlib import closing
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import sqlalchemy as sa
import uvicorn

from harness import engines
from harness.books import THRESHOLDS, open_books
from harness.clock import FakeClock
from tollhouse.admin.service import Administration
from tollhouse.apps.control import control_plane
from tollhouse.apps.health import Health
from tollhouse.audit.uses import FIRST_USED, NotableUses
from tollhouse.billing.service import UsageReports
from tollhouse.budgets.model import Reservation
from tollhouse.completions.listing import ModelListing
from tollhouse.completions.models import Models
from tollhouse.config import Config
from tollhouse.config.events import Events, Webhooks
from tollhouse.events.feed import Feed
from tollhouse.gate.admission import Admission
from tollhouse.keys.model import Principal
from tollhouse.keys.service import Keyring
from tollhouse.keys.store import mark_used
from tollhouse.kit.clock import billing_period, utc_text
from tollhouse.kit.sealing import Vault
from tollhouse.ledger.model import Settlement, Status
from tollhouse.ledger.service import Ledger
from tollhouse.notifications.service import Notifications
from tollhouse.pricing.book import PriceBook
from tollhouse.providers.usage import Usage
from tollhouse.reconciliation.model import PriceOf
from tollhouse.reconciliation.service import Reconciliation
from tollhouse.resilience.reachability import Reachability
from tollhouse.storage.database import Database
from tollhouse.telemetry.metrics import Metrics
from tollhouse.webhooks.service import WebhookAdministration
from tollhouse.wiring.engines import Engine
from tollhouse.wiring.workers import make_jobs

ADMIN = "the-admin-key-of-the-configuration"
USD = 1_000_000_000


@pytest.fixture(autouse=True)
def _on_each_engine(on_each_engine: None) -> None:
    """Fixtures that outlive a test and hold a database have to ask for ``engine``, so that each gets its own."""


class Answer:
    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.getheaders()}
        self.body = response.read()

    @property
    def json(self) -> Any:
        return json.loads(self.body, parse_float=Decimal)

    @property
    def error(self) -> tuple[str, str]:
        """The error's code and message, once its form is checked."""
        body = self.json
        assert set(body) == {"error", "message", "request_id"}
        assert body["request_id"] == self.headers["x-request-id"]
        return body["error"], body["message"]


async def _no_prices() -> PriceOf:
    return lambda _: None


class Plane:
    """A running control plane: asked over HTTP, while its database takes calls as the hot path would make them."""

    def __init__(self, path: Path) -> None:
        self.clock = FakeClock("2026-04-04T10:53:20Z")
        self.loop = asyncio.new_event_loop()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._run)
        self.port = self._listener.getsockname()[1]
        self.calls = 0
        self.path = path
        self.server: uvicorn.Server | None = None
        self._ready = threading.Event()
        self._thread.start()
        assert self._ready.wait(20)
        assert self.server is not None, "it starts"

    def _run(self) -> None:
        try:
            self.loop.run_until_complete(self._serve())
        finally:
            # Whoever waits for a plane that cannot be is told at once.
            self._ready.set()

    async def _serve(self) -> None:
        async with open_books(self.path, self.clock) as books:
            await self._serve_from(books.database, books.ledger)

    async def _serve_from(self, database: Database, ledger: Ledger) -> None:
        self.database = database
        keyring = Keyring(database, b"p" * 32)
        await keyring.load()
        keyring.trust(ADMIN, Principal("admin", "admin", "super-admin", None))
        tiers = {"starter": 2 * USD, "growth": 10 * USD}
        administration = Administration(
            database, keyring, self.clock, tiers=tiers, default_tier="starter", thresholds=THRESHOLDS
        )
        metrics = Metrics()
        self.uses = NotableUses(database, self.clock, mark_used)
        keyring.when_first_used = partial(self.uses.note, FIRST_USED)
        jobs = make_jobs(Config(), Engine(database, ledger, keyring, database, lambda: database), self.clock)
        app = control_plane(
            administration=administration,
            usage=UsageReports(database, self.clock),
            listing=ModelListing(Models({}, {}, PriceBook({}, {}, self.clock)), database),
            reconciliation=Reconciliation(database, self.clock, _no_prices, {}),
            jobs=jobs.jobs,
            dead_letters=jobs.dead_letters,
            schedules=jobs.schedules,
            keyring=keyring,
            clock=self.clock,
            metrics=metrics,
            uses=self.uses,
            notifications=Notifications(Feed(database, gives_places=False, poll_s=1), keyring, self.clock, Events()),
            webhooks=WebhookAdministration(database, self.clock, Vault(b"v" * 32), Webhooks(), gives_places=False),
            health=Health(
                database=database,
                ledger=ledger,
                metrics=metrics,
                clock=self.clock,
                reachability=Reachability({}, self.clock),
            ),
        )
        config = uvicorn.Config(app, lifespan="off", log_config=None, access_log=False, server_header=False)
        self.server = uvicorn.Server(config)
        self._ready.set()
        await self.server._serve([self._listener])

    def stop(self) -> None:
        assert self.server is not None
        self.server.should_exit = True
        self._thread.join(20)
        self.loop.close()

    def __call__(
        self, method: str, path: str, body: Any = None, *, key: str | None = ADMIN, headers: Any = None
    ) -> Answer:
        sent = dict(headers or {})
        if key is not None:
            sent["Authorization"] = f"Bearer {key}"
        raw = body if isinstance(body, str | bytes | Iterator | None) else json.dumps(body)
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)) as connection:
            connection.request(method, path, body=raw, headers=sent)
            return Answer(connection.getresponse())

    def call(
        self,
        tenant_id: str = "42",
        *,
        cost: int | None = USD // 10,
        ceiling: int = USD,
        user_id: str = "101",
        feature: str = "summary",
        key_id: str = "k",
        service: str = "sales",
        model: str = "claude-haiku-4-5",
        status: Status = "settled",
    ) -> None:
        """Admit a call and settle it at its cost; with ``cost`` None it stays reserved."""
        self.calls += 1
        now = utc_text(self.clock.now_ms())
        reservation = Reservation(
            request_id=f"req_{self.calls}",
            attempt=1,
            tenant_id=tenant_id,
            user_id=user_id,
            feature_slug=feature,
            service=service,
            key_id=key_id,
            model=model,
            provider="anthropic",
            price_version="test",
            ceiling_nano_usd=ceiling,
            billing_period=billing_period(self.clock.now_ms()),
            created_at=now,
        )
        self.wait_for(self._submitted(Admission(reservation)))
        if cost is not None:
            usage = Usage(300, cached_input_tokens=12, output_tokens=80, reasoning_tokens=7, audio_input_tokens=11)
            self.wait_for(self._submitted(Settlement(reservation, status, usage, "reported", cost, "stop", 10, now)))

    async def _submitted(self, operation: object) -> Any:
        return await self.database.submit(operation)

    def wait_for(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(20)

    def query(self, statement: str) -> list[Any]:
        """Return the rows that a statement finds in the database."""
        return list(self.wait_for(self.database.read(lambda connection: connection.execute(sa.text(statement)).all())))

    def tenant(self, tenant_id: int | str = 42, **changes: Any) -> Any:
        answer = self("PUT", f"/admin/tenants/{quote(str(tenant_id), safe='')}", {"is_active": True, **changes})
        assert answer.status == 200, answer.body
        return answer.json

    def new_key(self, **wanted: Any) -> Any:
        answer = self("POST", "/admin/keys", {"service": "sales", **wanted})
        assert answer.status == 200, answer.body
        return answer.json

    def audit(self, query: str = "") -> Any:
        return self("GET", f"/admin/audit?limit=1000&{query}").json["entries"]


@pytest.fixture(scope="module")
def plane(engine: engines.Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    """One for all tests of a file: each of them has tenants of its own."""
    plane = Plane(tmp_path_factory.mktemp("plane") / "t.db")
    yield plane
    plane.stop()


@pytest.fixture
def fresh_plane(tmp_path: Path) -> Iterator[Plane]:
    """One that is empty, and whose clock may be set."""
    plane = Plane(tmp_path / "t.db")
    yield plane
    plane.stop()

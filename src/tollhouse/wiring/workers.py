"""Jobs put together: the queue, what serves callers of it, and workers."""

import asyncio
import base64
import os
import platform
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from tollhouse.apps.duties import Duty
from tollhouse.config import Config, Secrets
from tollhouse.errors import StartError, Unavailable
from tollhouse.jobs.dead_letters import DeadLetters
from tollhouse.jobs.queue import JobQueue, QueueRules
from tollhouse.jobs.scheduling import Schedules
from tollhouse.jobs.sealing import DIGEST_PURPOSE, SEAL_PURPOSE, Seal
from tollhouse.jobs.service import Jobs, Plan, ReportRules
from tollhouse.jobs.templating import load_templates
from tollhouse.jobs.watch import JobWatch
from tollhouse.keys.charging import SECRET_PURPOSE, Accounts
from tollhouse.keys.model import Principal
from tollhouse.keys.pepper import StoredPepper
from tollhouse.keys.service import Keyring, open_keyring
from tollhouse.kit.clock import Clock
from tollhouse.storage.database import Database
from tollhouse.telemetry.jobs import job_metrics
from tollhouse.telemetry.metrics import Metrics
from tollhouse.wiring.engines import Engine

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

    from tollhouse.jobs.calling import CallerSettings, ServiceCaller
    from tollhouse.jobs.worker import Worker

WORKER_KEY_ID = "worker"
"""How the key of an embedded database's own worker is named in ledger and audit log."""
_NO_KEY = (
    "[jobs] api_key: is missing: expected env:NAME or file:/path with a service key, which `tollhouse key create "
    "--service worker` makes"
)
_WORKER_KEY_PURPOSE = b"tollhouse jobs: worker key"


class JobParts(msgspec.Struct, frozen=True):
    """What there is for jobs in a process that serves them."""

    queue: JobQueue
    seal: Seal
    jobs: Jobs
    dead_letters: DeadLetters
    schedules: Schedules
    watch: JobWatch
    accounts: Accounts


def make_jobs(config: Config, engine: Engine, clock: Clock, plan: Plan | None = None) -> JobParts:
    """Put together what serves callers of jobs; raises StartError for a template that is none."""
    return _parts(config, engine.database, engine.keyring, clock, plan)


def for_own_worker(parts: JobParts, engine: Engine, clock: Clock) -> JobParts:
    """Return the same for the worker of a process that serves: over connections that no callers of it can take."""
    database = engine.for_worker()
    queue = parts.queue.over(database)
    schedules = Schedules(database, queue, parts.seal, parts.jobs, clock, queue.time_ms)
    return msgspec.structs.replace(parts, queue=queue, schedules=schedules)


def _parts(config: Config, database: Database, keyring: Keyring, clock: Clock, plan: Plan | None) -> JobParts:
    reports = config.reports
    rules = ReportRules(
        reports.model, reports.max_tokens, reports.feature_slug, reports.max_rows, config.jobs.try_timeout_s
    )
    templates = load_templates(None if reports.templates is None else Path(reports.templates))
    settings = config.jobs
    queue_rules = QueueRules(
        settings.lease_s, settings.max_crashes, settings.keep_hours, settings.max_queued_per_tenant
    )
    queue, seal = JobQueue(database, clock, queue_rules), Seal(keyring.derive(SEAL_PURPOSE))
    networks = config.webhooks.networks
    jobs = Jobs(database, queue, seal, keyring.derive(DIGEST_PURPOSE), clock, templates, rules, plan, networks)
    dead_letters = DeadLetters(database, queue, clock)
    schedules = Schedules(database, queue, seal, jobs, clock, queue.time_ms)
    accounts = Accounts(keyring.derive(SECRET_PURPOSE))
    return JobParts(queue, seal, jobs, dead_letters, schedules, JobWatch(database, queue), accounts)


def job_duties(parts: JobParts, metrics: Metrics) -> tuple[Duty, ...]:
    """Return what a process that serves callers of jobs does all the time, and show it in the metrics."""

    def collect() -> Iterable["Metric"]:
        state = parts.watch.state
        return () if state is None else job_metrics(state.depths, state.overdue_s, state.workers, state.totals)

    metrics.add(collect)
    return (Duty("job_watch", parts.watch.keep_looking),)


def trust_own_worker(config: Config, secrets: Secrets, keyring: Keyring) -> str | None:
    """Return the key that the worker of ``serve`` calls with; None where that has none.

    It has to be the same after a restart, since the answers kept for its calls are its own. Of an embedded database it
    can be derived from the pepper, which is not in the database.

    Raises:
        StartError: there is to be one, and it has no key.
    """
    if not config.serves_jobs:
        return None
    if secrets.worker_key is not None:
        return secrets.worker_key
    if not config.database.is_embedded:
        raise StartError(_NO_KEY)
    key = "th_" + base64.urlsafe_b64encode(keyring.derive(_WORKER_KEY_PURPOSE)).decode().rstrip("=")
    keyring.trust(key, Principal(WORKER_KEY_ID, WORKER_KEY_ID, "service", None))
    return key


def check_caller(config: Config, api_key: str) -> None:
    """Raise StartError where no call could be made with what the worker of ``serve`` is configured to call by."""
    settings = config.jobs
    if settings.url is not None or settings.api_key is not None:
        _caller(config, settings.url or "http://localhost", api_key)


def _caller(config: Config, url: str, api_key: str) -> "tuple[ServiceCaller, CallerSettings]":
    """Return what calls the service, and how it does; raises StartError."""
    # Not on the way of those who serve without a worker.
    from tollhouse.jobs.calling import CallerSettings, ServiceCaller

    called = CallerSettings(url, api_key, config.jobs.ca_file)
    try:
        return ServiceCaller(called, max_calls=config.jobs.concurrency), called
    except (ValueError, OSError) as error:
        raise StartError(f"[jobs] url, api_key, ca_file: {error}") from error


@asynccontextmanager
async def working(config: Config, parts: JobParts, url: str, api_key: str) -> "AsyncIterator[asyncio.Task[None]]":
    """Run a worker in the background for as long as the context lasts; leaving it finishes what is under way.

    Yields the worker's task, which ends before that on a defect alone.
    """
    worker, close = _worker(config, parts, url, api_key)
    if config.database.is_embedded:
        # Whoever held something is gone: this process alone has the database.
        await parts.queue.take_back_all()
    running = asyncio.create_task(worker.run())
    try:
        yield running
    finally:
        worker.stop()
        await asyncio.wait({running})
        await close()


def _worker(config: Config, parts: JobParts, url: str, api_key: str) -> tuple["Worker", Callable[[], Awaitable[None]]]:
    """Return a worker, and what closes the connections that it calls by."""
    from tollhouse.jobs.isolation import IsolatedCaller
    from tollhouse.jobs.worker import Worker, WorkerRules

    settings = config.jobs
    rules = WorkerRules(
        settings.concurrency, settings.max_tries, settings.retry_pause_s, settings.poll_s, settings.stop_timeout_s
    )
    caller, called = _caller(config, url, api_key)
    # Process ids come again, in containers at each start; under its name a worker must not be taken for one before it.
    name = f"{platform.node()}:{os.getpid()}:{os.urandom(4).hex()}"
    isolated, fire_due = IsolatedCaller(called), parts.schedules.fire_due

    async def close() -> None:
        await isolated.close()
        await caller.close()

    worker = Worker(name, parts.queue, parts.seal, parts.accounts, caller, rules, isolated=isolated, fire_due=fire_due)
    return worker, close


@asynccontextmanager
async def open_worker(config: Config, secrets: Secrets, clock: Clock) -> AsyncIterator["Worker"]:
    """Open a worker of its own process, on a database that several share; raises StartError."""
    if config.database.is_embedded:
        raise StartError(
            "[database] url: an embedded database has one process, and `tollhouse serve` runs a worker in it; expected "
            "a PostgreSQL database for workers of their own"
        )
    if secrets.worker_key is None:
        raise StartError(_NO_KEY)
    from tollhouse.storage.postgres.control import shown
    from tollhouse.storage.postgres.database import PostgresDatabase

    settings = config.database
    database = PostgresDatabase(settings.url, timeout_s=settings.timeout_s)
    try:
        await database.open()
        try:
            keyring = await open_keyring(database, secrets.pepper, StoredPepper(database))
        except Unavailable as error:
            raise StartError(f"{shown(settings.url)}: cannot be used as a database: {error}") from error
        parts = _parts(config, database, keyring, clock, None)
        worker, close = _worker(config, parts, service_url(config), secrets.worker_key)
        try:
            yield worker
        finally:
            await close()
    finally:
        await database.close()


def service_url(config: Config) -> str:
    """Return where workers reach the service."""
    if config.jobs.url is not None:
        return config.jobs.url
    server = config.server
    scheme = "http" if server.tls_certificate is None else "https"
    host = f"[{server.host}]" if ":" in server.host else server.host
    return f"{scheme}://{host}:{server.port}"

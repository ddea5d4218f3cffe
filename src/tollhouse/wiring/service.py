"""The API process put together."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path

import msgspec
import structlog

from tollhouse.apps.api import AsgiApp, CompletionEndpoint
from tollhouse.apps.audiences import WorkerEndpoint
from tollhouse.apps.duties import Duties, Duty
from tollhouse.apps.edge import answering_the_edge
from tollhouse.apps.events import telling_events
from tollhouse.apps.following import follow_prices
from tollhouse.apps.health import memory_limit_bytes, resident_bytes
from tollhouse.apps.housekeeping import house_duties
from tollhouse.audit.journal import AuditJournal
from tollhouse.audit.service import AuditLog
from tollhouse.audit.uses import NotableUses
from tollhouse.completions.call import Limits, Planner
from tollhouse.completions.hedging import Hedging
from tollhouse.completions.listing import ModelListing
from tollhouse.completions.model import CompleteBody
from tollhouse.completions.models import Models
from tollhouse.completions.pipeline import Pipeline
from tollhouse.completions.relay import StreamBounds
from tollhouse.completions.routes import Routes
from tollhouse.completions.wire.registry import CLIENT_APIS, GEMINI_VERBS
from tollhouse.config import Config, Secrets, load_config
from tollhouse.errors import Unavailable
from tollhouse.gate.service import Gate
from tollhouse.guardrails.inspection import FeatureGuards
from tollhouse.guardrails.log import FindingsLog
from tollhouse.jobs.service import Plan
from tollhouse.keys.model import Principal
from tollhouse.kit.clock import Clock
from tollhouse.kit.ids import new_id
from tollhouse.kit.money import nano_usd
from tollhouse.pricing.book import PriceBook
from tollhouse.pricing.catalogue import Catalogue
from tollhouse.resilience.breaker import Transition
from tollhouse.resilience.guards import Guards
from tollhouse.resilience.reachability import Reachability
from tollhouse.resilience.shedding import LoadShedder, SheddingLimits
from tollhouse.storage.lock import Owner
from tollhouse.telemetry.guards import guard_metrics, shedding_metrics
from tollhouse.telemetry.metrics import Metrics
from tollhouse.tenants.tiers import TenantTiers
from tollhouse.wiring.candidates import make_guards, make_models, make_upstreams
from tollhouse.wiring.control import (
    assemble_control_plane,
    configured_prices,
    known_prices,
    make_reachability,
    make_reconciliation,
)
from tollhouse.wiring.core import Core, open_core, operator_token
from tollhouse.wiring.events import event_duties, make_events
from tollhouse.wiring.workers import (
    JobParts,
    check_caller,
    for_own_worker,
    job_duties,
    make_jobs,
    trust_own_worker,
    working,
)

_WORK_AGAIN_S = 1.0
_LOG = structlog.get_logger("tollhouse.start")


class Service(msgspec.Struct, frozen=True):
    """The assembled API process.

    Attributes:
        app: everything but completion calls.
        endpoint: completion calls.
        worker_endpoint: those of this process's own worker; None where it has none.
        describe: tells commands on this machine where the process serves.
        operator_token: a super-admin key for these commands; it ends with the process.
        end_streams: ends what clients follow for as long as they like; the process is to stop.
        begin_work: starts the worker of this process, if it has one, once calls are accepted at a URL.
    """

    app: AsgiApp
    endpoint: CompletionEndpoint
    worker_endpoint: CompletionEndpoint | None
    describe: Callable[[Owner], None]
    operator_token: str
    begin_work: Callable[[str], None]
    end_streams: Callable[[], None]


@asynccontextmanager
async def open_service(
    config: Config,
    secrets: Secrets,
    environ: Mapping[str, str],
    catalogue: Awaitable[Catalogue],
    clock: Clock,
    file: Path,
) -> AsyncIterator[Service]:
    """Assemble the whole API process; raises StartError.

    Args:
        catalogue: the prices being compiled; waited for once they are needed.
        file: where the configuration came from, if it exists; its prices are followed.
    """
    async with AsyncExitStack() as stack:
        core = await stack.enter_async_context(open_core(config, secrets, clock, serves=True))
        upstreams = make_upstreams(config, environ)
        for upstream in upstreams.values():
            stack.push_async_callback(upstream.close)
        known = await catalogue
        prices = PriceBook(configured_prices(config), known.prices, clock)
        journal = AuditJournal(AuditLog(core.engine.database, clock), clock)
        guards = make_guards(config, secrets, clock, partial(_tell_of_breaker, journal, core.metrics))
        models = make_models(config, secrets, upstreams, guards, prices, known.context_windows)
        findings = FindingsLog(core.engine.reserved, clock, core.metrics)
        pipeline = _pipeline(config, core, journal, findings)
        stack.push_async_callback(pipeline.background.finish, config.server.stop_timeout_s)
        planner = _planner(config, core, models)
        shedder = LoadShedder(_shedding_limits(config), resident_bytes)
        reachability = make_reachability(upstreams, clock, config.breaker.reach_every_s)
        _show(core.metrics, guards, reachability, shedder)
        reconciliation = make_reconciliation(config, core, lambda: known_prices(prices))
        events = make_events(config, core)
        jobs = make_jobs(config, core.engine, clock, _plan(planner, clock))
        worker_key = trust_own_worker(config, secrets, core.engine.keyring)
        expire = partial(reconciliation.expire, config.ledger.unknown_hold_hours)
        duties = (
            *house_duties(core.engine.ledger, core.engine.reserved, clock, expire),
            *core.engine.duties,
            Duty("uses_of_keys", core.uses.keep_writing),
            Duty("prices", lambda: follow_prices(prices, file, lambda: configured_prices(load_config(file, environ)))),
            Duty("audit_journal", journal.keep_writing),
            Duty("findings", findings.keep_writing),
            Duty("load_shedding", shedder.watch),
            Duty("reachability", reachability.keep_looking),
            *event_duties(config, core, events),
            *job_duties(jobs, core.metrics),
        )
        stack.push_async_callback(_write_the_rest, core.uses, journal, findings)
        stack.push_async_callback(events.dispatcher.finish)
        stack.enter_context(core.duties.keeping(duties))
        routes = Routes(core.engine.keyring, planner, pipeline, apis=CLIENT_APIS, gemini=GEMINI_VERBS)
        endpoint = CompletionEndpoint(routes, core.metrics, clock, core.uses, shedder)
        own = None if worker_key is None else WorkerEndpoint(endpoint, worker_key)
        begin = _start_worker(config, worker_key, partial(for_own_worker, jobs, core.engine, clock), core.duties, stack)
        listing = ModelListing(models, core.engine.database)
        plane = assemble_control_plane(core, jobs, events, reconciliation, listing, reachability, guards, shedder)
        plane = answering_the_edge(plane, core.engine.keyring, events.notifications.tokens, clock)
        app, end_streams = telling_events(plane, events.notifications, clock), events.notifications.feed.close
        yield Service(app, endpoint, own, core.engine.describe, operator_token(core), begin, end_streams)


def _show(metrics: Metrics, guards: Guards, reachability: Reachability, shedder: LoadShedder) -> None:
    metrics.add(lambda: guard_metrics(guards.samples(reachability)))
    metrics.add(lambda: shedding_metrics(shedder.shed, shedder.lag_s))


def _plan(planner: Planner, clock: Clock) -> Plan:
    """Return what checks a call that is to be made later."""

    def plan(body: CompleteBody, principal: Principal) -> int:
        call = planner.plan(body, principal, "", None, new_id("req", clock.now_ms()))
        return call.ceiling_nano_usd

    return plan


def _start_worker(
    config: Config, api_key: str | None, make: Callable[[], JobParts], duties: Duties, stack: AsyncExitStack
) -> Callable[[str], None]:
    """Return what starts the worker of a process that serves, once it is told where that is; it ends with the stack.

    Raises:
        StartError: it could make no call.
    """
    if api_key is None:
        return lambda _: None
    check_caller(config, api_key)
    jobs = make()
    serving_at = asyncio.get_running_loop().create_future()

    async def work() -> None:
        url = config.jobs.url or await serving_at
        while True:
            try:
                async with working(config, jobs, url, api_key) as worker:
                    _LOG.info("running jobs", url=url)
                    # Not awaited itself: it is to end in peace when this is cancelled.
                    await asyncio.wait({worker})
                    worker.result()
            except Unavailable as error:
                # It would be a service that takes jobs, and never runs any.
                _LOG.error("jobs are run once the database can be written", reason=error.message)
                await asyncio.sleep(_WORK_AGAIN_S)

    async def stop() -> None:
        running.cancel()
        await asyncio.wait({running})

    running = asyncio.create_task(duties.keep([Duty("worker", work)]))
    stack.push_async_callback(stop)

    def start(url: str) -> None:
        if not serving_at.done():
            serving_at.set_result(url)

    return start


def _tell_of_breaker(
    journal: AuditJournal, metrics: Metrics, provider: str, model: str, transition: Transition
) -> None:
    """Take down that a breaker changed its state: in the log, the metrics and the audit log."""
    metrics.transitioned(provider, model, transition.after)
    told = msgspec.structs.asdict(transition)
    log = _LOG.info if transition.after == "closed" else _LOG.warning
    log("a circuit breaker changed its state", provider=provider, model=model, **told)
    before = {"state": told.pop("before")}
    told["state"] = told.pop("after")
    journal.note(
        f"breaker.{transition.after}",
        (provider, model),
        tenant_id="",
        target=f"{provider}/{model}",
        before=before,
        after={"provider": provider, "model": model, **told},
    )


async def _write_the_rest(uses: NotableUses, journal: AuditJournal, findings: FindingsLog) -> None:
    """Write what was taken down last, before the database is closed."""
    await findings.close()
    try:
        await journal.flush()
    except Unavailable as error:
        _LOG.error("the last events are missing in the audit log", reason=error.message)
    await uses.flush()


def _shedding_limits(config: Config) -> SheddingLimits:
    settings = config.shedding
    max_memory_bytes = settings.max_memory_bytes
    if max_memory_bytes is None:
        allowed = memory_limit_bytes()
        max_memory_bytes = None if allowed is None else allowed * 9 // 10
    return SheddingLimits(settings.max_lag_s, max_memory_bytes, settings.max_calls)


def _pipeline(config: Config, core: Core, journal: AuditJournal, findings: FindingsLog) -> Pipeline:
    failover = config.failover
    return Pipeline(
        gate=Gate(core.engine.database),
        ledger=core.engine.ledger,
        journal=journal,
        findings=findings,
        tiers=TenantTiers(core.engine.database, core.clock),
        max_retry_after_s=failover.max_retry_after_s,
        hedging=Hedging(nano_usd(failover.hedge_max_usd)) if failover.hedge else None,
        metrics=core.metrics,
        clock=core.clock,
        bounds=StreamBounds(
            heartbeat_s=config.limits.heartbeat_s,
            drain_timeout_s=config.limits.drain_timeout_s,
            drain_bytes=config.limits.drain_bytes,
        ),
    )


def _planner(config: Config, core: Core, models: Models) -> Planner:
    limits = Limits(
        call_timeout_s=config.limits.call_timeout_s,
        max_timeout_s=config.limits.max_timeout_s,
        stream_timeout_s=config.limits.stream_timeout_s,
        default_max_output_tokens=config.limits.default_max_output_tokens,
        keep_answers_hours=config.idempotency.keep_hours,
    )
    return Planner(models, core.clock, limits, FeatureGuards(config.guardrails, config.features))

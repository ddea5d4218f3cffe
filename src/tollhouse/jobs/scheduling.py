"""Schedules: jobs and reports that are asked for again and again, at times that a cron expression names.

Whichever process finds one due fires it, in the transaction that sets its next time: it fires once, however many look.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Annotated, Any
from zoneinfo import ZoneInfo

import msgspec
import sqlalchemy as sa
import structlog
from cronsim import CronSim, CronSimError
from msgspec import Meta

from tollhouse.errors import InvalidRequest, NotFound, TollhouseError
from tollhouse.jobs.body import JobBody, ReportBody
from tollhouse.jobs.model import NewJob
from tollhouse.jobs.queue import JobQueue
from tollhouse.jobs.sealing import Seal
from tollhouse.jobs.service import Jobs, Reader
from tollhouse.keys.model import Principal
from tollhouse.kit.clock import Clock, epoch_ms, utc_text
from tollhouse.kit.ids import id_value, new_id
from tollhouse.storage.database import Database
from tollhouse.storage.job_schema import ai_job_schedules
from tollhouse.storage.schema import ai_service_keys

MAX_SCHEDULES = 1000
"""Schedules of one tenant."""
_FIRED_AT_ONCE = 20
_DAY_MS = 86_400_000
_NAMED = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@weekly": "0 0 * * SUN",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
}
_ROW = ai_job_schedules.c
_LOG = structlog.get_logger("tollhouse.schedules")


class ScheduleBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The body of ``POST /ai/schedules``: when, and either the ``job`` or the ``report`` that is asked for then."""

    cron: Annotated[
        str, Meta(min_length=1, max_length=128, description="five fields, such as 0 7 * * MON; @daily and the like too")
    ]
    timezone: Annotated[str, Meta(min_length=1, max_length=64, description="whose clock it goes by")] = "UTC"
    name: Annotated[str, Meta(max_length=128)] = ""
    job: Annotated[JobBody | None, Meta(description="as POST /ai/jobs takes it")] = None
    report: Annotated[ReportBody | None, Meta(description="as POST /reports/generate takes it")] = None


class Schedule(msgspec.Struct, frozen=True):
    """A schedule, without what it asks for."""

    schedule_id: str
    name: str
    tenant_id: int | str
    user_id: int | str | None
    cron: str
    timezone: str
    next_at: Annotated[str, Meta(description="when it fires next")]
    last_job_id: Annotated[str | None, Meta(description="the job that it made last")]
    created_at: str


class ScheduleList(msgspec.Struct, frozen=True):
    """Schedules, the oldest first."""

    schedules: list[Schedule]


class _Asked(msgspec.Struct, frozen=True):
    """What a schedule keeps, sealed."""

    job: JobBody | None
    report: ReportBody | None


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(_Asked).decode


class Schedules:
    """The schedules of a database.

    Args:
        time_ms: the time that decides what is due.
    """

    def __init__(
        self,
        database: Database,
        queue: JobQueue,
        seal: Seal,
        jobs: Jobs,
        clock: Clock,
        time_ms: Callable[[sa.Connection], int],
    ) -> None:
        self._database = database
        self._queue = queue
        self._seal = seal
        self._jobs = jobs
        self._clock = clock
        self._time_ms = time_ms

    async def add(self, principal: Principal, body: ScheduleBody) -> Schedule:
        """Keep a schedule; raises TollhouseError for what cannot be meant, or would be refused if it were asked now."""
        asked = body.job or body.report
        if asked is None or (body.job is not None and body.report is not None):
            raise InvalidRequest("job: expected either job or report, and not both")
        if not body.name.isprintable():
            raise InvalidRequest("name: expected printable characters only")
        next_time(body.cron, body.timezone, self._clock.now_ms())
        new = self._jobs.checked(principal, asked)
        # Whose it is must not depend on the key, which may be changed before it fires.
        own = msgspec.structs.replace(asked, tenant_id=new.tenant_id)
        if isinstance(own, JobBody):
            own = msgspec.structs.replace(own, feature_slug=new.feature_slug)
        schedule_id = new_id("sch", self._clock.now_ms())
        content = _encode({"job": own if body.job else None, "report": own if body.report else None})

        def work(connection: sa.Connection) -> Schedule:
            if len(_of_tenant(connection, new.tenant_id)) >= MAX_SCHEDULES:
                raise InvalidRequest(f"tenant_id: has {MAX_SCHEDULES} schedules already, which is the most")
            row = {
                "schedule_id": schedule_id,
                "name": body.name,
                "tenant_id": new.tenant_id,
                "user_id": new.user_id,
                "service": principal.service,
                "key_id": principal.key_id,
                "cron": body.cron,
                "timezone": body.timezone,
                "sealed_request": self._seal.seal(schedule_id, content),
                "next_ms": next_time(body.cron, body.timezone, self._time_ms(connection)),
                "last_job_id": "",
                "created_at": utc_text(self._clock.now_ms()),
            }
            connection.execute(sa.insert(ai_job_schedules).values(row))
            return _found(connection, schedule_id)

        return await self._database.write(work)

    async def of_tenant(self, reader: Reader, tenant_id: str | None) -> ScheduleList:
        """Return the schedules of a tenant, or of all, that somebody may see."""
        found = await self._database.read(lambda connection: _of_tenant(connection, tenant_id))
        return ScheduleList([each for each in found if _may_see(reader, each)])

    async def get(self, reader: Reader, schedule_id: str) -> Schedule:
        """Return a schedule; raises NotFound, also for one that somebody may not see."""
        found = await self._database.read(lambda connection: _found(connection, schedule_id))
        if not _may_see(reader, found):
            raise NotFound(f"there is no schedule {schedule_id[:80]}")
        return found

    async def remove(self, reader: Reader, schedule_id: str) -> None:
        """Forget a schedule; the jobs that it made go on. Raises as ``get``."""
        await self.get(reader, schedule_id)
        forget = sa.delete(ai_job_schedules).where(_ROW.schedule_id == schedule_id)
        await self._database.write(lambda connection: connection.execute(forget).close())

    async def fire_due(self) -> int:
        """Make the jobs of all schedules that are due; return how many schedules.

        What was missed while no worker ran is made up for once, however often it was missed.
        """
        fired = 0
        if not await self._database.read(self._is_any_due):
            return fired
        while some := await self._database.write(self._fire_some):
            fired += some
        if fired:
            self._queue.arrived.set()
        return fired

    def _is_any_due(self, connection: sa.Connection) -> bool:
        due = sa.select(_ROW.schedule_id).where(_ROW.next_ms <= self._time_ms(connection)).limit(1)
        return connection.scalar(due) is not None

    def _fire_some(self, connection: sa.Connection) -> int:
        now_ms = self._time_ms(connection)
        wanted = (
            sa.select(ai_job_schedules)
            .where(_ROW.next_ms <= now_ms)
            .order_by(_ROW.next_ms)
            .limit(_FIRED_AT_ONCE)
            .with_for_update(skip_locked=True)
        )
        rows = connection.execute(wanted).all()
        for row in rows:
            job_id = self._fire(connection, row)
            connection.execute(
                sa.update(ai_job_schedules)
                .where(_ROW.schedule_id == row.schedule_id)
                .values(next_ms=_next_or_later(row, now_ms), last_job_id=job_id or row.last_job_id)
            )
        return len(rows)

    def _fire(self, connection: sa.Connection, row: sa.Row[tuple[object, ...]]) -> str | None:
        """Make a schedule's job; None where it cannot be made any more, which is logged, and holds no other up."""
        if _is_revoked(connection, row.key_id):
            reason = "the key that it was made with has been revoked"
            _LOG.error("a schedule makes no job", schedule_id=row.schedule_id, reason=reason)
            return None
        try:
            new = self._asked_by(row)
        except TollhouseError as error:
            _tell_why_none(row, error)
            return None
        except Exception:  # noqa: BLE001 - such as a body that another version wrote, and this one cannot read
            _LOG.exception("a schedule makes no job", schedule_id=row.schedule_id)
            return None
        try:
            return self._queue.add_within(connection, new).job_id
        except TollhouseError as error:
            # Its tenant's queue is full: it would be no use to queue what may be asked for again before it is done.
            _tell_why_none(row, error)
            return None

    def _asked_by(self, row: sa.Row[Any]) -> NewJob:
        """Return the job that a schedule asks for; what its call would be refused for shows when that is made."""
        asked = _decode(self._seal.open(row.schedule_id, row.sealed_request))
        body = asked.job or asked.report
        assert body is not None, "one of them was kept"
        principal = Principal(row.key_id, row.service, "service", frozenset({row.tenant_id}))
        new, _ = self._jobs.of_body(principal, body)
        return new


def next_time(cron: str, timezone: str, after_ms: int) -> int:
    """Return the next instant, in milliseconds since the Unix epoch, that a cron expression names.

    Raises:
        InvalidRequest: it is none, or names no instant; or there is no such time zone.
    """
    try:
        zone = ZoneInfo(timezone)
    except (KeyError, ValueError, OSError):
        raise InvalidRequest("timezone: expected a name of the IANA database, such as Africa/Kampala") from None
    try:
        after = datetime.fromtimestamp(after_ms / 1000, UTC).astimezone(zone)
        return epoch_ms(next(CronSim(_NAMED.get(cron, cron), after)))
    except (CronSimError, StopIteration):
        raise InvalidRequest(
            "cron: expected five fields (minute, hour, day, month, weekday) that name a time, such as 0 7 * * MON"
        ) from None


def _next_or_later(row: sa.Row[Any], now_ms: int) -> int:
    """Return when a schedule fires next; one whose time zone this machine does not know is looked at a day later."""
    try:
        return next_time(row.cron, row.timezone, now_ms)
    except InvalidRequest as error:
        _LOG.error("a schedule names no time", schedule_id=row.schedule_id, reason=error.message)
        return now_ms + _DAY_MS


def _tell_why_none(row: sa.Row[Any], refusal: TollhouseError) -> None:
    _LOG.error("a schedule makes no job", schedule_id=row.schedule_id, code=refusal.code, reason=refusal.message)


def _is_revoked(connection: sa.Connection, key_id: str) -> bool:
    keys = ai_service_keys.c
    wanted = sa.select(keys.key_id).where(keys.key_id == key_id, keys.revoked_at.is_not(None))
    return connection.scalar(wanted) is not None


def _found(connection: sa.Connection, schedule_id: str) -> Schedule:
    row = connection.execute(sa.select(ai_job_schedules).where(_ROW.schedule_id == schedule_id)).one_or_none()
    if row is None:
        raise NotFound(f"there is no schedule {schedule_id[:80]}")
    return _schedule(row)


def _of_tenant(connection: sa.Connection, tenant_id: str | None) -> Sequence[Schedule]:
    wanted = sa.select(ai_job_schedules).order_by(_ROW.schedule_id)
    if tenant_id is not None:
        wanted = wanted.where(_ROW.tenant_id == tenant_id)
    return [_schedule(row) for row in connection.execute(wanted)]


def _schedule(row: sa.Row[tuple[object, ...]]) -> Schedule:
    return Schedule(
        schedule_id=row.schedule_id,
        name=row.name,
        tenant_id=id_value(row.tenant_id),
        user_id=id_value(row.user_id) if row.user_id else None,
        cron=row.cron,
        timezone=row.timezone,
        next_at=utc_text(row.next_ms),
        last_job_id=row.last_job_id or None,
        created_at=row.created_at,
    )


def _may_see(reader: Reader, schedule: Schedule) -> bool:
    tenant_id, user_id = str(schedule.tenant_id), "" if schedule.user_id is None else str(schedule.user_id)
    return (
        reader.principal.may_act_for(tenant_id)
        and reader.tenant_id in {None, tenant_id}
        and reader.user_id in {None, user_id}
    )

"""The statements of the queue, on every engine. They lock in one order: a worker, a tenant's turn, a job, its parent.

Whatever a worker writes names the run that it claimed: of one that was taken for dead meanwhile, nothing is written.
"""

from collections.abc import Iterable
from typing import Any

import msgspec
import sqlalchemy as sa

from tollhouse.jobs import turns
from tollhouse.jobs.lookup import COLUMNS, job_of
from tollhouse.jobs.model import Claimed, Failure, Job, NewJob, State
from tollhouse.kit.clock import Clock
from tollhouse.storage.job_schema import ai_job_turns, ai_jobs
from tollhouse.storage.statements import Prepared

_JOB = ai_jobs.c
_TURN = ai_job_turns.c
_NONE = Failure("", "")
# Tenants whose jobs were cancelled are in the way of others until a claim finds them out: so many times it looks on.
_MOST_LOOKS = 100
# Spelt out, since an engine that plans for any value of a parameter passes over an index for some rows alone.
_IS_QUEUED = _JOB.state == sa.literal_column("'queued'")
_IS_PART = _JOB.parent_id != sa.literal_column("''")
_IS_ITS_RUN = sa.and_(
    _JOB.job_id == sa.bindparam("id"),
    _JOB.run == sa.bindparam("its_run"),
    _JOB.state == sa.literal_column("'processing'"),
)

_DATABASE_MS = Prepared(sa.text("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint"))


def database_ms(connection: sa.Connection, clock: Clock) -> int:
    """Return the time that leases are judged by: on PostgreSQL its own, which all workers share."""
    if connection.dialect.name == "sqlite":
        return clock.now_ms()
    return int(_DATABASE_MS.on(connection).scalar_one())


# What a job begins with, beside what is asked for.
_AT_FIRST: dict[str, Any] = {
    "parent_id": "",
    "position": 0,
    "state": "queued",
    "worker": "",
    "attempts": 0,
    "crashes": 0,
    "interruptions": 0,
    "delays": 0,
    "generation": 0,
    "run": 0,
    "parts_complete": 0,
    "parts_failed": 0,
    "error_code": "",
    "error_message": "",
    "started_at": None,
    "finished_at": None,
    "expires_at": None,
}
_ASKED = [name for name in NewJob.__struct_fields__ if name not in {"parts", "priority"}]
_ADD = Prepared(sa.insert(ai_jobs), columns=[*_AT_FIRST, *_ASKED, "rank", "due_ms", "parts"])


def add(connection: sa.Connection, job: NewJob, due_ms: int) -> Job:
    """Queue a job, and its parts, whose places were taken."""
    fields = msgspec.structs.asdict(job)
    parts, priority = fields.pop("parts"), fields.pop("priority")
    row = {**_AT_FIRST, **fields, "rank": -priority, "due_ms": None if parts else due_ms, "parts": len(parts)}
    _ADD.on(connection, **row)
    rows = [
        {
            **row,
            "job_id": part.job_id,
            "sealed_request": part.sealed_request,
            "parent_id": job.job_id,
            "position": position,
            "due_ms": due_ms,
            "parts": 0,
            "webhook_url": "",
            "claim_id": None,
            "body_digest": "",
        }
        for position, part in enumerate(job.parts)
    ]
    if rows:
        connection.execute(sa.insert(ai_jobs), rows)
    return Job(**{name: row[name] for name in Job.__struct_fields__})


_FREE_CLAIM = Prepared(
    sa.update(ai_jobs)
    .where(_JOB.claim_id == sa.bindparam("its_claim"), _JOB.expires_at <= sa.bindparam("now"))
    .values(claim_id=sa.null())
)


def free_claim(connection: sa.Connection, claim_id: str, now: str) -> None:
    """Take an Idempotency-Key from a job whose time is over, and which is not deleted yet."""
    _FREE_CLAIM.on(connection, its_claim=claim_id, now=now)


_LAST_TURN = Prepared(sa.select(sa.func.max(_TURN.turn)))
_WHOSE_TURN = Prepared(
    sa.select(_TURN.tenant_id)
    .where(_TURN.next_due_ms <= sa.bindparam("now_ms"))
    .order_by(_TURN.turn, _TURN.tenant_id)
    .limit(sa.bindparam("most"))
    .with_for_update(skip_locked=True)
)
_IS_ANYONE = Prepared(sa.select(sa.literal_column("1")).where(_TURN.next_due_ms <= sa.bindparam("now_ms")).limit(1))
_WAITS = sa.and_(_JOB.tenant_id == sa.bindparam("whose"), _IS_QUEUED, _JOB.due_ms.is_not(None))
_IS_DUE = sa.and_(_WAITS, _JOB.due_ms <= sa.bindparam("now_ms"))
_URGENT = (
    sa.select(_JOB.job_id)
    .where(_IS_DUE)
    .order_by(_JOB.rank, _JOB.due_ms, _JOB.job_id)
    .limit(sa.bindparam("most"))
    .with_for_update()
    .cte("urgent")
)
_CLAIM = Prepared(
    sa.update(ai_jobs)
    .where(_JOB.job_id.in_(sa.select(_URGENT.c.job_id)), _IS_QUEUED)
    .values(
        state="processing",
        attempts=_JOB.attempts + 1,
        run=_JOB.run + 1,
        worker=sa.bindparam("by"),
        started_at=sa.func.coalesce(_JOB.started_at, sa.bindparam("now", type_=sa.Text)),
    )
    .returning(*COLUMNS, _JOB.sealed_request)
)
# Of those that are due already, any will do, and is found at once.
_DUE_ALREADY = sa.select(_JOB.due_ms).where(_IS_DUE).limit(1).scalar_subquery()
_DUE_NEXT = sa.select(sa.func.min(_JOB.due_ms)).where(_WAITS).scalar_subquery()
_SERVED = Prepared(
    sa.update(ai_job_turns)
    .where(_TURN.tenant_id == sa.bindparam("whose"))
    .values(turn=sa.bindparam("at_turn"), next_due_ms=sa.func.coalesce(_DUE_ALREADY, _DUE_NEXT))
)


def is_anyone_waiting(connection: sa.Connection, now_ms: int) -> bool:
    """Whether there may be something to claim."""
    return _IS_ANYONE.on(connection, now_ms=now_ms).first() is not None


def claim(
    connection: sa.Connection, worker: str, most: int, *, now_ms: int, now: str
) -> tuple[list[Claimed], list[Job]]:
    """Give a worker the jobs whose turn it is, as many of each tenant that waits, and count their starts.

    Args:
        most: how many it takes.

    Returns:
        the jobs, and those of them, or of their parents, that are begun for the first time.
    """
    claimed: list[Claimed] = []
    begun: list[Job] = []
    turn = int(_LAST_TURN.on(connection).scalar() or 0)
    for _ in range(_MOST_LOOKS):
        left = most - len(claimed)
        tenants = _WHOSE_TURN.on(connection, now_ms=now_ms, most=left).scalars().all() if left else []
        if not tenants:
            break
        share, more = divmod(left, len(tenants))
        for place, tenant_id in enumerate(tenants):
            turn += 1
            found = _claim_of(connection, tenant_id, worker, share + (place < more), now_ms=now_ms, now=now)
            _SERVED.on(connection, whose=tenant_id, at_turn=turn, now_ms=now_ms)
            for each in found:
                if each.job.parent_id and _is_given_up(connection, each.job, now):
                    continue
                claimed.append(each)
                begun += _begin(connection, each.job, now)
    return claimed, begun


def _claim_of(
    connection: sa.Connection, tenant_id: str, worker: str, most: int, *, now_ms: int, now: str
) -> list[Claimed]:
    """Give a worker a tenant's most urgent jobs."""
    rows = _CLAIM.on(connection, whose=tenant_id, by=worker, most=most, now_ms=now_ms, now=now)
    return sorted((Claimed(job_of(row), row[-1]) for row in rows), key=_urgency)


def _urgency(claimed: Claimed) -> tuple[int, str]:
    return claimed.job.rank, claimed.job.job_id


_STATE_OF = Prepared(sa.select(_JOB.state).where(_JOB.job_id == sa.bindparam("id")))
_GIVE_UP = Prepared(
    sa.update(ai_jobs)
    .where(_IS_ITS_RUN)
    .values(state="cancelled", worker="", due_ms=sa.null(), finished_at=sa.bindparam("now"), sealed_request=sa.null())
)


def _is_given_up(connection: sa.Connection, part: Job, now: str) -> bool:
    """Cancel a part that was under way when its job was cancelled, and is to be tried again; return whether it is."""
    if _STATE_OF.on(connection, id=part.parent_id).scalar() != "cancelled":
        return False
    _GIVE_UP.on(connection, id=part.job_id, its_run=part.run, now=now)
    return True


_BEGIN_PARENT = Prepared(
    sa.update(ai_jobs)
    .where(_JOB.job_id == sa.bindparam("id"), _IS_QUEUED)
    .values(
        state="processing",
        attempts=_JOB.attempts + 1,
        started_at=sa.func.coalesce(_JOB.started_at, sa.bindparam("now", type_=sa.Text)),
    )
    .returning(*COLUMNS)
)


def _begin(connection: sa.Connection, job: Job, now: str) -> list[Job]:
    """Return the job that its user sees as begun by a start, if it was not before."""
    if not job.parent_id:
        return [job] if job.run == 1 else []
    begun = _BEGIN_PARENT.on(connection, id=job.parent_id, now=now).one_or_none()
    return [] if begun is None else [job_of(begun)]


_PUT_OFF = Prepared(
    sa.update(ai_jobs)
    .where(_IS_ITS_RUN)
    .values(
        state="queued",
        worker="",
        due_ms=sa.bindparam("at_ms"),
        **{
            name: sa.bindparam(f"its_{name}")
            for name in ("attempts", "crashes", "interruptions", "delays", "generation")
        },
    )
)


def put_off(connection: sa.Connection, job: Job, due_ms: int) -> bool:
    """Queue a job again, with these counts, that a worker holds, or held; return whether it was still that run's."""
    turns.await_turn(connection, job.tenant_id, due_ms)
    changed = _PUT_OFF.on(
        connection,
        id=job.job_id,
        its_run=job.run,
        at_ms=due_ms,
        its_attempts=job.attempts,
        its_crashes=job.crashes,
        its_interruptions=job.interruptions,
        its_delays=job.delays,
        its_generation=job.generation,
    )
    return changed.rowcount > 0


class Ended(msgspec.Struct, frozen=True):
    """What the end of a job came to.

    Attributes:
        is_held: whether it was still that run's; nothing was written otherwise.
        over: the job that its user sees as over by it.
        went_on: the job that its user sees as further on by it.
    """

    is_held: bool
    over: Job | None = None
    went_on: Job | None = None


_STATE = sa.bindparam("its_state", type_=sa.Text)
# Nobody needs what was asked any more, but of a job that failed and may be done again.
_NEEDED = sa.case((sa.literal_column("'complete'") == _STATE, sa.null()), else_=_JOB.sealed_request)
_OVER = {
    "state": _STATE,
    "finished_at": sa.bindparam("now"),
    "expires_at": sa.bindparam("forgotten_at"),
    "error_code": sa.bindparam("code"),
    "error_message": sa.bindparam("message"),
    "sealed_request": _NEEDED,
}
_END = Prepared(
    sa.update(ai_jobs)
    .where(_IS_ITS_RUN)
    .values(
        **_OVER,
        due_ms=sa.null(),
        worker="",
        crashes=sa.bindparam("its_crashes"),
        interruptions=sa.bindparam("its_interruptions"),
        sealed_result=sa.bindparam("result"),
    )
    .returning(*COLUMNS)
)
_END_PARENT = Prepared(sa.update(ai_jobs).where(_JOB.job_id == sa.bindparam("id")).values(**_OVER).returning(*COLUMNS))
_COUNT_PART = Prepared(
    sa.update(ai_jobs)
    .where(_JOB.job_id == sa.bindparam("id"))
    .values(
        parts_complete=_JOB.parts_complete + sa.bindparam("complete"),
        parts_failed=_JOB.parts_failed + sa.bindparam("failed"),
    )
    .returning(*COLUMNS)
)


def end(
    connection: sa.Connection,
    job: Job,
    state: State,
    *,
    now: str,
    expires_at: str,
    sealed_result: bytes | None = None,
    failure: Failure = _NONE,
) -> Ended:
    """End a job that a worker holds or held; the last part of a job ends that too.

    Args:
        expires_at: when what is kept of it is forgotten.
        sealed_result: the answer, or of a job that failed what the provider said.
    """
    ended = _END.on(
        connection,
        id=job.job_id,
        its_run=job.run,
        its_state=state,
        its_crashes=job.crashes,
        its_interruptions=job.interruptions,
        code=failure.code,
        message=failure.message,
        result=sealed_result,
        now=now,
        forgotten_at=None if job.parent_id else expires_at,
    ).one_or_none()
    if ended is None:
        return Ended(is_held=False)
    if not job.parent_id:
        return Ended(is_held=True, over=job_of(ended))
    return _count_part(connection, job.parent_id, state, now=now, expires_at=expires_at)


def _count_part(connection: sa.Connection, parent_id: str, state: State, *, now: str, expires_at: str) -> Ended:
    is_complete = state == "complete"
    counted = _COUNT_PART.on(connection, id=parent_id, complete=int(is_complete), failed=int(not is_complete))
    parent = job_of(counted.one())
    if parent.state != "processing":
        return Ended(is_held=True)
    if parent.parts_complete + parent.parts_failed < parent.parts:
        return Ended(is_held=True, went_on=parent)
    outcome: State = "complete" if parent.parts_complete else "failed"
    failure = _NONE if parent.parts_complete else _failure_of_parts(connection, parent_id)
    over = _END_PARENT.on(
        connection,
        id=parent_id,
        its_state=outcome,
        now=now,
        forgotten_at=expires_at,
        code=failure.code,
        message=failure.message,
    )
    return Ended(is_held=True, over=job_of(over.one()))


def _failure_of_parts(connection: sa.Connection, parent_id: str) -> Failure:
    """Return why the first of a job's parts failed, for a job all of whose parts did."""
    row = connection.execute(
        sa.select(_JOB.error_code, _JOB.error_message)
        .where(_JOB.parent_id == parent_id, _IS_PART, _JOB.state == "failed")
        .order_by(_JOB.position)
        .limit(1)
    ).one()
    return Failure(row.error_code, row.error_message)


def cancel(connection: sa.Connection, job_id: str, *, now: str, expires_at: str) -> Job | None:
    """End what of a job has not been started; None where that is nothing."""
    ended = {"state": "cancelled", "due_ms": None, "finished_at": now, "sealed_request": None}
    # Parts before their parent, which is the order of all locks.
    parts = connection.execute(sa.update(ai_jobs).where(_JOB.parent_id == job_id, _IS_PART, _IS_QUEUED).values(ended))
    can_be = sa.or_(_IS_QUEUED, _JOB.state == "processing") if parts.rowcount else _IS_QUEUED
    row = connection.execute(
        sa.update(ai_jobs)
        .where(_JOB.job_id == job_id, _JOB.parent_id == "", can_be)
        .values(**ended, expires_at=expires_at)
        .returning(*COLUMNS)
    ).one_or_none()
    return None if row is None else job_of(row)


def again(connection: sa.Connection, job: Job, due_ms: int) -> Job | None:
    """Queue a job again that is over and has failed, or parts of which have; None where that is not so."""
    turns.await_turn(connection, job.tenant_id, due_ms)
    anew = {
        "state": "queued",
        "attempts": 0,
        "crashes": 0,
        "interruptions": 0,
        "delays": 0,
        "generation": _JOB.generation + 1,
        "error_code": "",
        "error_message": "",
        "finished_at": None,
        "expires_at": None,
        "sealed_result": None,
    }
    failed_parts = connection.execute(
        sa.update(ai_jobs)
        .where(_JOB.parent_id == job.job_id, _IS_PART, _JOB.state == "failed")
        .values(**anew, due_ms=due_ms)
    ).rowcount
    can_be = sa.or_(_JOB.state == "failed", sa.and_(_JOB.state == "complete", _JOB.parts_failed > 0))
    own = {**anew, "parts_failed": 0} if job.parts else {**anew, "due_ms": due_ms}
    row = connection.execute(
        sa.update(ai_jobs)
        .where(_JOB.job_id == job.job_id, _JOB.parent_id == "", can_be)
        .values(own)
        .returning(*COLUMNS)
    ).one_or_none()
    if row is None:
        # Its parts are then to be left as they were, by undoing the transaction.
        return None
    turns.add_places(connection, job.tenant_id, failed_parts if job.parts else 1)
    return job_of(row)


def drop(connection: sa.Connection, job_ids: Iterable[str]) -> int:
    """Forget jobs that are over, and their parts; return how many jobs."""
    ids = list(job_ids)
    is_over = _JOB.state.in_(["complete", "failed", "cancelled"])
    dropped = connection.scalars(
        sa.delete(ai_jobs).where(_JOB.job_id.in_(ids), _JOB.parent_id == "", is_over).returning(_JOB.job_id)
    ).all()
    connection.execute(sa.delete(ai_jobs).where(_JOB.parent_id.in_(list(dropped)), _IS_PART))
    return len(dropped)

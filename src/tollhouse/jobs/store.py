"""The statements of the queue. They run on every engine, and lock in one order: a tenant's turn, a job, its parent.

Whatever a worker writes names the run that it claimed: of one that was taken for dead meanwhile, nothing is written.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from tollhouse.jobs.lookup import COLUMNS, find, job_of
from tollhouse.jobs.model import Claimed, Failure, Job, NewJob, State
from tollhouse.kit.clock import Clock
from tollhouse.storage.job_schema import ai_job_turns, ai_jobs

_JOB = ai_jobs.c
_TURN = ai_job_turns.c
_NONE = Failure("", "")
# Spelt out, since an engine that plans for any value of a parameter passes over an index for some rows alone.
_IS_QUEUED = _JOB.state == sa.literal_column("'queued'")
_IS_PART = _JOB.parent_id != sa.literal_column("''")


def database_ms(connection: sa.Connection, clock: Clock) -> int:
    """Return the time that leases are judged by: on PostgreSQL its own, which all workers share."""
    if connection.dialect.name == "sqlite":
        return clock.now_ms()
    return int(connection.scalar(sa.text("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint")) or 0)


def _insert(connection: sa.Connection) -> Any:
    if connection.dialect.name == "postgresql":
        from sqlalchemy.dialects.postgresql import insert as postgresql_insert

        return postgresql_insert
    from sqlalchemy.dialects.sqlite import insert as sqlite_insert

    return sqlite_insert


def add(connection: sa.Connection, job: NewJob, due_ms: int) -> Job:
    """Queue a job, and its parts."""
    if job.parts:
        _await_turn(connection, job.tenant_id, due_ms)
    fields = msgspec.structs.asdict(job)
    parts, priority = fields.pop("parts"), fields.pop("priority")
    common = {
        **fields,
        "parent_id": "",
        "position": 0,
        "rank": -priority,
        "state": "queued",
        "worker": "",
        "error_code": "",
        "error_message": "",
        "due_ms": None if parts else due_ms,
        "parts": len(parts),
    }
    if not parts:
        _await_turn(connection, job.tenant_id, due_ms)
    connection.execute(sa.insert(ai_jobs).values(common))
    rows = [
        {
            **common,
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
    added = find(connection, job.job_id)
    assert added is not None, "it was added just now"
    return added


def _await_turn(connection: sa.Connection, tenant_id: str, due_ms: int) -> None:
    """Have a tenant's turn come once a job of it is due; its row is locked from here on."""
    new = _insert(connection)(ai_job_turns).values(tenant_id=tenant_id, turn=0, next_due_ms=due_ms)
    is_earlier = sa.or_(_TURN.next_due_ms.is_(None), _TURN.next_due_ms > due_ms)
    sooner = sa.case((is_earlier, due_ms), else_=_TURN.next_due_ms)
    connection.execute(new.on_conflict_do_update(index_elements=["tenant_id"], set_={"next_due_ms": sooner}))


def claim(
    connection: sa.Connection, worker: str, most: int, *, now_ms: int, lease_ms: int, now: str
) -> tuple[list[Claimed], list[Job]]:
    """Give a worker the jobs whose turn it is, and count their starts.

    Args:
        most: how many it takes.
        lease_ms: until when they are its own.

    Returns:
        the jobs, and those of them, or of their parents, that are begun for the first time.
    """
    claimed: list[Claimed] = []
    begun: list[Job] = []
    turn = int(connection.scalar(sa.select(sa.func.max(_TURN.turn))) or 0)
    wanted = (
        sa.select(_TURN.tenant_id)
        .where(_TURN.next_due_ms <= now_ms)
        .order_by(_TURN.turn, _TURN.tenant_id)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    while len(claimed) < most:
        tenant_id = connection.scalar(wanted)
        if tenant_id is None:
            break
        turn += 1
        found = _claim_of(connection, tenant_id, worker, now_ms=now_ms, lease_ms=lease_ms, now=now)
        connection.execute(
            sa.update(ai_job_turns)
            .where(_TURN.tenant_id == tenant_id)
            .values(turn=turn, next_due_ms=_next_due_ms(connection, tenant_id, now_ms))
        )
        if found is None:
            # Cancelled meanwhile, or claimed by somebody: its row is right again, and no longer in the way.
            continue
        claimed.append(found)
        begun += _begin(connection, found.job, now)
    return claimed, begun


def _claim_of(
    connection: sa.Connection, tenant_id: str, worker: str, *, now_ms: int, lease_ms: int, now: str
) -> Claimed | None:
    """Give a worker a tenant's most urgent job."""
    is_due = sa.and_(_JOB.tenant_id == tenant_id, _IS_QUEUED, _JOB.due_ms <= now_ms)
    job_id = connection.scalar(
        sa.select(_JOB.job_id).where(is_due).order_by(_JOB.rank, _JOB.due_ms, _JOB.job_id).limit(1).with_for_update()
    )
    if job_id is None:
        return None
    changed = connection.execute(
        sa.update(ai_jobs)
        .where(_JOB.job_id == job_id, _IS_QUEUED)
        .values(
            state="processing",
            attempts=_JOB.attempts + 1,
            run=_JOB.run + 1,
            worker=worker,
            lease_ms=lease_ms,
            started_at=sa.func.coalesce(_JOB.started_at, now),
        )
        .returning(*COLUMNS, _JOB.sealed_request)
    ).one()
    return Claimed(job_of(changed), changed.sealed_request)


def _next_due_ms(connection: sa.Connection, tenant_id: str, now_ms: int) -> int | None:
    """Return when a tenant's next job is due; of those that are due already, any will do."""
    waits = sa.and_(_JOB.tenant_id == tenant_id, _IS_QUEUED, _JOB.due_ms.is_not(None))
    due: int | None = connection.scalar(sa.select(_JOB.due_ms).where(waits, _JOB.due_ms <= now_ms).limit(1))
    if due is None:
        due = connection.scalar(sa.select(sa.func.min(_JOB.due_ms)).where(waits))
    return due


def _begin(connection: sa.Connection, job: Job, now: str) -> list[Job]:
    """Return the job that its user sees as begun by a start, if it was not before."""
    if not job.parent_id:
        return [job] if job.attempts == 1 and job.run == 1 else []
    begun = connection.execute(
        sa.update(ai_jobs)
        .where(_JOB.job_id == job.parent_id, _IS_QUEUED)
        .values(state="processing", attempts=_JOB.attempts + 1, started_at=now)
        .returning(*COLUMNS)
    ).one_or_none()
    return [] if begun is None else [job_of(begun)]


def beat(connection: sa.Connection, runs: Mapping[str, int], lease_ms: int) -> set[str]:
    """Prolong the leases of a worker's jobs, by their runs; return the ids of those that are still its own."""
    held = set()
    # In one order, so that no two of them wait for each other.
    for job_id in sorted(runs):
        changed = connection.execute(sa.update(ai_jobs).where(_held(job_id, runs[job_id])).values(lease_ms=lease_ms))
        if changed.rowcount:
            held.add(job_id)
    return held


def _held(job_id: str, run: int, lapsed_at_ms: int | None = None) -> sa.ColumnElement[bool]:
    held = sa.and_(_JOB.job_id == job_id, _JOB.run == run, _JOB.state == "processing")
    return held if lapsed_at_ms is None else sa.and_(held, _JOB.lease_ms < lapsed_at_ms)


def put_off(
    connection: sa.Connection,
    job: Job,
    due_ms: int,
    *,
    attempts: int = 0,
    crashes: int = 0,
    delays: int = 0,
    lapsed_at_ms: int | None = None,
) -> bool:
    """Queue a job again that a worker holds, or held; return whether it was still that run's.

    Args:
        attempts: what is added to its starts: -1 gives this one back.
        crashes: what is added to the workers that it was lost with.
        delays: 1 where it is put off without having used up a try.
        lapsed_at_ms: when its lease has to be over for that.
    """
    _await_turn(connection, job.tenant_id, due_ms)
    changed = connection.execute(
        sa.update(ai_jobs)
        .where(_held(job.job_id, job.run, lapsed_at_ms))
        .values(
            state="queued",
            due_ms=due_ms,
            lease_ms=None,
            worker="",
            attempts=_JOB.attempts + attempts,
            crashes=_JOB.crashes + crashes,
            delays=_JOB.delays + 1 if delays else 0,
        )
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


def end(
    connection: sa.Connection,
    job: Job,
    state: State,
    *,
    now: str,
    expires_at: str,
    sealed_result: bytes | None = None,
    failure: Failure = _NONE,
    crashes: int = 0,
    lapsed_at_ms: int | None = None,
) -> Ended:
    """End a job that a worker holds or held; the last part of a job ends that too.

    Args:
        expires_at: when what is kept of it is forgotten.
        lapsed_at_ms: when its lease has to be over for that.
    """
    ended = connection.execute(
        sa.update(ai_jobs)
        .where(_held(job.job_id, job.run, lapsed_at_ms))
        .values(
            state=state,
            lease_ms=None,
            due_ms=None,
            worker="",
            crashes=_JOB.crashes + crashes,
            error_code=failure.code,
            error_message=failure.message,
            sealed_result=sealed_result,
            # Nobody needs it any more, but of a job that failed and may be done again.
            sealed_request=None if state == "complete" else _JOB.sealed_request,
            finished_at=now,
            expires_at=None if job.parent_id else expires_at,
        )
        .returning(*COLUMNS)
    ).one_or_none()
    if ended is None:
        return Ended(is_held=False)
    if not job.parent_id:
        return Ended(is_held=True, over=job_of(ended))
    return _count_part(connection, job.parent_id, state, now=now, expires_at=expires_at)


def _count_part(connection: sa.Connection, parent_id: str, state: State, *, now: str, expires_at: str) -> Ended:
    counter = _JOB.parts_complete if state == "complete" else _JOB.parts_failed
    parent = job_of(
        connection.execute(
            sa.update(ai_jobs).where(_JOB.job_id == parent_id).values({counter: counter + 1}).returning(*COLUMNS)
        ).one()
    )
    if parent.state != "processing":
        return Ended(is_held=True)
    if parent.parts_complete + parent.parts_failed < parent.parts:
        return Ended(is_held=True, went_on=parent)
    outcome: State = "complete" if parent.parts_complete else "failed"
    failure = _NONE if parent.parts_complete else _failure_of_parts(connection, parent_id)
    over = connection.execute(
        sa.update(ai_jobs)
        .where(_JOB.job_id == parent_id)
        .values(
            state=outcome,
            finished_at=now,
            expires_at=expires_at,
            error_code=failure.code,
            error_message=failure.message,
            sealed_request=None if outcome == "complete" else _JOB.sealed_request,
        )
        .returning(*COLUMNS)
    ).one()
    return Ended(is_held=True, over=job_of(over))


def _failure_of_parts(connection: sa.Connection, parent_id: str) -> Failure:
    """Return why the first of a job's parts failed, for a job all of whose parts did."""
    row = connection.execute(
        sa.select(_JOB.error_code, _JOB.error_message)
        .where(_JOB.parent_id == parent_id, _IS_PART, _JOB.state == "failed")
        .order_by(_JOB.position)
        .limit(1)
    ).one()
    return Failure(row.error_code, row.error_message)


def lapsed(connection: sa.Connection, now_ms: int, most: int) -> Sequence[Job]:
    """Return jobs whose leases are over: their workers are dead, or as good as that."""
    wanted = sa.select(*COLUMNS).where(_JOB.lease_ms < now_ms, _JOB.state == "processing")
    return [job_of(row) for row in connection.execute(wanted.order_by(_JOB.lease_ms).limit(most))]


def cancel(connection: sa.Connection, job_id: str, *, now: str, expires_at: str) -> Job | None:
    """End what of a job has not been started; None where that is nothing."""
    ended = {"state": "cancelled", "due_ms": None, "finished_at": now, "sealed_request": None}
    # Parts before their parent, which is the order of all locks.
    connection.execute(sa.update(ai_jobs).where(_JOB.parent_id == job_id, _IS_PART, _IS_QUEUED).values(ended))
    can_be = sa.or_(_IS_QUEUED, sa.and_(_JOB.state == "processing", _JOB.parts > 0))
    row = connection.execute(
        sa.update(ai_jobs)
        .where(_JOB.job_id == job_id, _JOB.parent_id == "", can_be)
        .values(**ended, expires_at=expires_at)
        .returning(*COLUMNS)
    ).one_or_none()
    return None if row is None else job_of(row)


def again(connection: sa.Connection, job: Job, due_ms: int) -> Job | None:
    """Queue a job again that is over and has failed, or parts of which have; None where that is not so."""
    _await_turn(connection, job.tenant_id, due_ms)
    anew = {
        "state": "queued",
        "attempts": 0,
        "crashes": 0,
        "delays": 0,
        "generation": _JOB.generation + 1,
        "error_code": "",
        "error_message": "",
        "finished_at": None,
        "expires_at": None,
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
    assert row is not None or not failed_parts, "parts fail with their parent"
    return None if row is None else job_of(row)


def drop(connection: sa.Connection, job_ids: Iterable[str]) -> int:
    """Forget jobs that are over, and their parts; return how many jobs."""
    ids = list(job_ids)
    is_over = _JOB.state.in_(["complete", "failed", "cancelled"])
    dropped = connection.scalars(
        sa.delete(ai_jobs).where(_JOB.job_id.in_(ids), _JOB.parent_id == "", is_over).returning(_JOB.job_id)
    ).all()
    connection.execute(sa.delete(ai_jobs).where(_JOB.parent_id.in_(list(dropped)), _IS_PART))
    return len(dropped)

"""A tenant's row among those who wait: when its next job is due, and how many of its completions may be open.

Whoever queues something locks this row first. So what is queued is counted there; what ends is not, since that would
have every end of a job wait for the row. The count is therefore never too low, and is set right by counting the jobs
once it comes to the bound: then alone, and now and then at most, as a long queue takes long to count. ADR 24 has more.
"""

import sqlalchemy as sa

from tollhouse.errors import InvalidRequest, RateLimited
from tollhouse.storage.job_schema import ai_job_turns, ai_jobs
from tollhouse.storage.statements import Prepared

_JOB = ai_jobs.c
_TURN = ai_job_turns.c
# To count 100,000 jobs takes some milliseconds, for which an embedded database writes nothing else.
_COUNT_EVERY_MS_AT_LEAST = 1000
_JOBS_COUNTED_PER_MS = 100
# When jobs end is not known; whoever waits so long does not ask in vain a hundred times.
_AGAIN_S = 5

_SOONER = (
    "next_due_ms = CASE WHEN ai_job_turns.next_due_ms <= excluded.next_due_ms "
    "THEN ai_job_turns.next_due_ms ELSE excluded.next_due_ms END "
)
_AWAIT = Prepared(
    sa.text(
        "INSERT INTO ai_job_turns (tenant_id, turn, next_due_ms) VALUES (:whose, 0, :due_ms) "  # noqa: S608 - constants
        f"ON CONFLICT (tenant_id) DO UPDATE SET {_SOONER}"
    )
)
# The same, and the places, if there are so many; the row is locked even where there are not.
_TAKE = Prepared(
    sa.text(
        "INSERT INTO ai_job_turns (tenant_id, turn, next_due_ms, open_jobs) VALUES (:whose, 0, :due_ms, :more) "  # noqa: S608 - constants
        f"ON CONFLICT (tenant_id) DO UPDATE SET open_jobs = ai_job_turns.open_jobs + excluded.open_jobs, {_SOONER}"
        "WHERE ai_job_turns.open_jobs + excluded.open_jobs <= :most RETURNING tenant_id"
    )
)
_ADD = Prepared(
    sa.update(ai_job_turns)
    .where(_TURN.tenant_id == sa.bindparam("whose"))
    .values(open_jobs=_TURN.open_jobs + sa.bindparam("more"))
)
_COUNTED_AT = Prepared(sa.select(_TURN.counted_ms).where(_TURN.tenant_id == sa.bindparam("whose")))
# Spelt out as in their indexes. A job of many parts is no completion itself.
_IS_QUEUED = sa.and_(_JOB.state == sa.literal_column("'queued'"), _JOB.due_ms.is_not(None))
_IS_HELD = sa.and_(_JOB.state == sa.literal_column("'processing'"), _JOB.worker != sa.literal_column("''"))
_QUEUED = sa.select(sa.func.count()).where(_JOB.tenant_id == sa.bindparam("whose"), _IS_QUEUED)
_HELD = sa.select(sa.func.count()).where(_JOB.tenant_id == sa.bindparam("whose"), _IS_HELD)
_COUNT = Prepared(
    sa.update(ai_job_turns)
    .where(_TURN.tenant_id == sa.bindparam("whose"))
    .values(
        open_jobs=_QUEUED.scalar_subquery() + _HELD.scalar_subquery(),
        counted_ms=sa.bindparam("now_ms"),
    )
)


def await_turn(connection: sa.Connection, tenant_id: str, due_ms: int) -> None:
    """Have a tenant's turn come once a job of it is due; its row is locked from here on."""
    _AWAIT.on(connection, whose=tenant_id, due_ms=due_ms)


def take_places(connection: sa.Connection, tenant_id: str, completions: int, *, most: int, now_ms: int) -> None:
    """Do so for completions that are to be queued, if they have room; refused, nothing of them is written.

    Args:
        most: how many of a tenant's may wait or be under way.

    Raises:
        InvalidRequest: they would not have room in an empty queue either.
        RateLimited: they have none now. What was counted is written even so, and is to be committed.
    """
    if completions > most:
        raise InvalidRequest(
            f"{completions} completions are more than may be queued at once, which is {most} ([jobs] "
            "max_queued_per_tenant); ask for fewer rows"
        )
    wanted = {"whose": tenant_id, "due_ms": now_ms, "more": completions, "most": most}
    if _TAKE.on(connection, **wanted).first() is not None:
        return
    every_ms = max(_COUNT_EVERY_MS_AT_LEAST, most // _JOBS_COUNTED_PER_MS)
    # A clock that was set back is no reason to wait until it is where it was.
    if abs(now_ms - _COUNTED_AT.on(connection, whose=tenant_id).scalar_one()) >= every_ms:
        _COUNT.on(connection, whose=tenant_id, now_ms=now_ms)
        if _TAKE.on(connection, **wanted).first() is not None:
            return
    raise RateLimited(
        f"{most} completions of this tenant are queued or under way, or nearly so many, which is the most; ask again "
        "once some are done",
        retry_after_s=_AGAIN_S,
    )


def add_places(connection: sa.Connection, tenant_id: str, completions: int) -> None:
    """Count completions that are queued again, whether or not they have room; the row is this transaction's."""
    _ADD.on(connection, whose=tenant_id, more=completions)

"""How the queue stands, as metrics and the doctor tell it; cheap enough to be looked at all the time."""

import asyncio

import msgspec
import sqlalchemy as sa
import structlog

from tollhouse.errors import Unavailable
from tollhouse.jobs import totals
from tollhouse.jobs.queue import JobQueue
from tollhouse.storage.database import Database
from tollhouse.storage.job_schema import ai_job_workers, ai_jobs
from tollhouse.storage.statements import Prepared

MOST_COUNTED = 10_000
"""Jobs of a state are counted up to so many, for the sake of a queue that is very long."""
_LOOK_EVERY_S = 5.0
_JOB = ai_jobs.c
_LOG = structlog.get_logger("tollhouse.jobs")

# Each condition is that of an index, which has the column that is asked for.
_WAITING = sa.and_(_JOB.state == sa.literal_column("'queued'"), _JOB.due_ms.is_not(None))
_HELD = sa.and_(_JOB.state == sa.literal_column("'processing'"), _JOB.worker != sa.literal_column("''"))
_FAILED = sa.and_(_JOB.state == sa.literal_column("'failed'"), _JOB.parent_id == sa.literal_column("''"))


def _counted(condition: sa.ColumnElement[bool]) -> Prepared:
    some = sa.select(_JOB.queue).where(condition).limit(MOST_COUNTED).subquery()
    return Prepared(sa.select(some.c.queue, sa.func.count().label("jobs")).group_by(some.c.queue))


_DEPTHS = {"queued": _counted(_WAITING), "processing": _counted(_HELD), "failed": _counted(_FAILED)}
_OLDEST = Prepared(sa.select(sa.func.min(_JOB.due_ms)).where(_WAITING, _JOB.queue == sa.bindparam("of_queue")))
_WORKERS = Prepared(
    sa.select(sa.func.count()).select_from(ai_job_workers).where(ai_job_workers.c.lease_ms >= sa.bindparam("now_ms"))
)


class QueueState(msgspec.Struct, frozen=True):
    """How the queue stands.

    Attributes:
        depths: how many jobs, and parts of jobs, by queue and state: ``queued`` (to be run), ``processing`` (being run)
            and ``failed``; up to ``MOST_COUNTED`` in each state.
        overdue_s: how long the job that is due for longest has been so, by queue.
        workers: how many are alive.
        totals: how many runs ended how, by queue and outcome.
    """

    depths: dict[tuple[str, str], int]
    overdue_s: dict[str, float]
    workers: int
    totals: dict[tuple[str, str], int]


def look(connection: sa.Connection, now_ms: int) -> QueueState:
    """Return how the queue stands at a moment of the clock that leases are judged by."""
    depths = {(row.queue, state): row.jobs for state, statement in _DEPTHS.items() for row in statement.on(connection)}
    overdue_s = {}
    for queue in {queue for queue, state in depths if state == "queued"}:
        oldest_ms = _OLDEST.on(connection, of_queue=queue).scalar()
        overdue_s[queue] = 0.0 if oldest_ms is None else max(0, now_ms - oldest_ms) / 1000
    workers = int(_WORKERS.on(connection, now_ms=now_ms).scalar_one())
    return QueueState(depths, overdue_s, workers, totals.read(connection))


class JobWatch:
    """Looks at the queue now and then, so that scraping the metrics asks nothing of the database.

    Attributes:
        state: as it was last seen; None where it could not be seen.
    """

    def __init__(self, database: Database, queue: JobQueue) -> None:
        self._database = database
        self._queue = queue
        self.state: QueueState | None = None

    async def keep_looking(self) -> None:
        """Look until cancelled."""
        while True:
            seen = None
            try:
                seen = await self._database.read(lambda connection: look(connection, self._queue.time_ms(connection)))
            except Unavailable as error:
                _LOG.warning("the queue of jobs cannot be looked at", reason=error.message)
            finally:
                # Also after a defect: what is not known any more is not told.
                self.state = seen
            await asyncio.sleep(_LOOK_EVERY_S)

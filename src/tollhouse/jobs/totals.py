"""How many runs of jobs ended how: counted by whoever ended them, and added to the database now and then.

A row for each queue and outcome, so that nobody has to count jobs. What a killed worker counted last is missing in it.
"""

from collections import Counter

import sqlalchemy as sa

from tollhouse.storage.job_schema import ai_job_totals
from tollhouse.storage.statements import Prepared

_ADD = Prepared(
    sa.text(
        "INSERT INTO ai_job_totals (queue, outcome, total) VALUES (:queue, :outcome, :more) "
        "ON CONFLICT (queue, outcome) DO UPDATE SET total = ai_job_totals.total + excluded.total"
    )
)
_ALL = Prepared(sa.select(ai_job_totals.c.queue, ai_job_totals.c.outcome, ai_job_totals.c.total))


Counts = Counter[tuple[str, str]]
"""Of runs, by queue and outcome."""


def add(connection: sa.Connection, counts: Counts) -> None:
    """Add to the database's totals, always in one order, as rows are locked."""
    for (queue, outcome), count in sorted(counts.items()):
        if count:
            _ADD.on(connection, queue=queue, outcome=outcome, more=count)


def read(connection: sa.Connection) -> dict[tuple[str, str], int]:
    """Return the database's totals, by queue and outcome."""
    return {(row.queue, row.outcome): row.total for row in _ALL.on(connection)}

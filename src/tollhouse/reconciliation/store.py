"""What reconciliation reads of the ledger. The statements run on every engine."""

from collections.abc import Sequence

import msgspec
import sqlalchemy as sa

from tollhouse.budgets.model import Reservation
from tollhouse.kit.clock import utc_text
from tollhouse.ledger.model import OTHER_CLASSES, other_counts
from tollhouse.providers.usage import Usage
from tollhouse.reconciliation.model import CLASSES
from tollhouse.storage.schema import ai_reservations, ai_usage_log

_RESERVATION = [ai_reservations.c[name] for name in Reservation.__struct_fields__]
# How much of a time's text tells which span it is in, when all spans begin and end on a multiple of so many ms.
_PRECISIONS = ((3_600_000, len("2026-04-01T12")), (60_000, len("2026-04-01T12:00")), (1000, len("2026-04-01T12:00:00")))
_WHOLE_TEXT = len("2026-04-01T12:00:00.000Z")
_COLUMN_CLASSES = [name for name in CLASSES if name not in OTHER_CLASSES]


class Billed(msgspec.Struct, frozen=True):
    """What was billed of a configured model in one short piece of time, or a part of it.

    Attributes:
        begins: the piece's first instant as text, cut after as many characters as all its instants share.
    """

    model: str
    begins: str
    requests: int
    sharing: int
    usage: Usage


def billed(
    connection: sa.Connection, provider: str, start_ms: int, end_ms: int, boundaries_ms: set[int]
) -> list[Billed]:
    """Return what the ledger has of a provider, by model and time of admission, in pieces that no boundary cuts.

    One statement reads it all, since the ledger keeps no index by time. Calls with other usage come apart, grouped by
    it: the engines have no way in common to look into it.
    """
    table = ai_usage_log.c
    length = _precision(boundaries_ms)
    # Grouped by its label, since PostgreSQL takes two parameters of one value for two different expressions.
    begins = sa.func.substr(table.admitted_at, 1, length).label("begins")
    # An adjustment resolved a call: as not billed ('none'), as billed ('reported'), or as one of some ('estimated').
    is_certain = sa.or_(table.status == "settled", table.usage_source == "reported")
    is_share = sa.and_(table.status == "adjustment", table.usage_source == "estimated")
    calls = [sa.func.sum(sa.case((condition, 1), else_=0)) for condition in (is_certain, is_share)]
    sums = [sa.func.sum(table[name]) for name in _COLUMN_CLASSES]
    statement = (
        sa.select(table.model, begins, table.other_usage, sa.func.count(), *calls, *sums)
        .where(
            table.provider == provider,
            table.status != "unknown",
            table.admitted_at >= utc_text(start_ms),
            table.admitted_at < utc_text(end_ms),
        )
        .group_by(table.model, sa.text("begins"), table.other_usage)
    )
    return [
        Billed(model, piece, int(requests), int(sharing), _usage(counts, other, int(rows)))
        for model, piece, other, rows, requests, sharing, *counts in connection.execute(statement)
    ]


def _usage(counts: Sequence[int], other: str, rows: int) -> Usage:
    """Return the sums of columns, and of as many rows with the same other usage, as one usage."""
    classes = dict(zip(_COLUMN_CLASSES, map(int, counts), strict=True))
    return Usage(**classes, **{name: count * rows for name, count in other_counts(other).items()})


def _precision(boundaries_ms: set[int]) -> int:
    for unit_ms, length in _PRECISIONS:
        if all(boundary % unit_ms == 0 for boundary in boundaries_ms):
            return length
    return _WHOLE_TEXT


def held(
    connection: sa.Connection, provider: str, start_ms: int, end_ms: int
) -> tuple[list[Reservation], list[Reservation]]:
    """Return a provider's attempts of unknown outcome and those under way, by time of admission, the oldest first."""
    table = ai_reservations.c
    found = connection.execute(
        sa.select(table.state, *_RESERVATION)
        .where(
            table.provider == provider,
            table.created_at >= utc_text(start_ms),
            table.created_at < utc_text(end_ms),
        )
        .order_by(table.created_at, table.request_id, table.attempt)
    )
    unknown: list[Reservation] = []
    under_way: list[Reservation] = []
    for state, *values in found:
        (unknown if state == "unknown" else under_way).append(Reservation(*values))
    return unknown, under_way


def held_since(connection: sa.Connection, before: str, limit: int) -> Sequence[Reservation]:
    """Return up to ``limit`` attempts of unknown outcome that were admitted before an instant, the oldest first."""
    table = ai_reservations.c
    rows = connection.execute(
        sa.select(*_RESERVATION)
        .where(table.state == "unknown", table.created_at < before)
        .order_by(table.created_at, table.request_id, table.attempt)
        .limit(limit)
    )
    return [Reservation(*row) for row in rows]


def still_held(connection: sa.Connection, reservations: Sequence[Reservation]) -> set[tuple[str, int]]:
    """Return the request and attempt of those that are still of unknown outcome."""
    table = ai_reservations.c
    rows = connection.execute(
        sa.select(table.request_id, table.attempt).where(
            table.state == "unknown", table.request_id.in_({each.request_id for each in reservations})
        )
    )
    return {(row.request_id, row.attempt) for row in rows}

"""The statements of endpoints and deliveries. They run on every engine."""

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from tollhouse.storage.event_schema import (
    ai_event_cursors,
    ai_event_head,
    ai_events,
    ai_webhook_deliveries,
    ai_webhook_endpoints,
)
from tollhouse.storage.statements import Prepared
from tollhouse.webhooks.model import Claimed, Endpoint, NewDelivery, Result

_CURSOR = "webhooks"
_ENDPOINTS = ai_webhook_endpoints.c
_ROWS = ai_webhook_deliveries.c
_ENDPOINT_COLUMNS = [_ENDPOINTS[name] for name in Endpoint.__struct_fields__]
_CLAIMED_COLUMNS = [_ROWS.delivery_id, _ROWS.endpoint_id, _ROWS.url, _ROWS.event_id, _ROWS.payload, _ROWS.attempts]
_IS_WAITING = _ROWS.state == "waiting"


# Endpoints.


def _endpoint(row: Sequence[Any]) -> Endpoint:
    endpoint = Endpoint(*row)
    types = endpoint.types
    decoded = None if types is None else tuple(msgspec.json.decode(str(types), type=list[str]))
    return msgspec.structs.replace(endpoint, types=decoded)


def endpoints(connection: sa.Connection, tenant_id: str | None = None) -> list[Endpoint]:
    """Return all endpoints, or a tenant's, the oldest first."""
    wanted = sa.select(*_ENDPOINT_COLUMNS).order_by(_ENDPOINTS.endpoint_id)
    if tenant_id is not None:
        wanted = wanted.where(_ENDPOINTS.tenant_id == tenant_id)
    return [_endpoint(row) for row in connection.execute(wanted)]


def endpoint_as_it_is(connection: sa.Connection, endpoint_id: str) -> Endpoint | None:
    """Return an endpoint, or None."""
    row = connection.execute(sa.select(*_ENDPOINT_COLUMNS).where(_ENDPOINTS.endpoint_id == endpoint_id)).one_or_none()
    return None if row is None else _endpoint(row)


def endpoint_to_change(connection: sa.Connection, endpoint_id: str) -> Endpoint | None:
    """Return an endpoint, or None; nobody else changes it until the transaction ends."""
    wanted = sa.select(*_ENDPOINT_COLUMNS).where(_ENDPOINTS.endpoint_id == endpoint_id).with_for_update()
    row = connection.execute(wanted).one_or_none()
    return None if row is None else _endpoint(row)


def _endpoint_row(endpoint: Endpoint) -> dict[str, Any]:
    types = None if endpoint.types is None else msgspec.json.encode(endpoint.types).decode()
    return {**msgspec.structs.asdict(endpoint), "types": types}


def add_endpoint(connection: sa.Connection, made: Endpoint) -> None:
    """Write a new endpoint."""
    connection.execute(sa.insert(ai_webhook_endpoints), _endpoint_row(made))


def save_endpoint(connection: sa.Connection, changed: Endpoint) -> None:
    """Write an endpoint anew."""
    row = _endpoint_row(changed)
    connection.execute(
        sa.update(ai_webhook_endpoints).where(_ENDPOINTS.endpoint_id == row.pop("endpoint_id")).values(row)
    )


def remove_endpoint(connection: sa.Connection, endpoint_id: str) -> None:
    """Delete an endpoint with all its deliveries."""
    connection.execute(sa.delete(ai_webhook_deliveries).where(_ROWS.endpoint_id == endpoint_id))
    connection.execute(sa.delete(ai_webhook_endpoints).where(_ENDPOINTS.endpoint_id == endpoint_id))


# From events to deliveries.


def lock_cursor(connection: sa.Connection) -> int | None:
    """Return the position up to which events were given to their endpoints; None where another is moving it.

    It is nobody else's to move until the transaction ends.
    """
    wanted = sa.select(ai_event_cursors.c.position).where(ai_event_cursors.c.name == _CURSOR)
    wanted = wanted.with_for_update(skip_locked=True)
    found = connection.scalar(wanted)
    if found is None:
        first = sa.text("INSERT INTO ai_event_cursors (name, position) VALUES (:name, 0) ON CONFLICT DO NOTHING")
        connection.execute(first, {"name": _CURSOR})
        found = connection.scalar(wanted)
    return None if found is None else int(found)


def move_cursor(connection: sa.Connection, position: int) -> None:
    """Note that all events up to a position were given to their endpoints."""
    connection.execute(sa.update(ai_event_cursors).where(ai_event_cursors.c.name == _CURSOR).values(position=position))


def add_deliveries(connection: sa.Connection, made: Sequence[NewDelivery]) -> None:
    """Write deliveries."""
    common = {"state": "waiting", "attempts": 0, "owner": "", "last_status": None, "last_problem": "", "ended_at": None}
    if made:
        connection.execute(
            sa.insert(ai_webhook_deliveries), [{**msgspec.structs.asdict(each), **common} for each in made]
        )


# Trying them.


class Work(msgspec.Struct, frozen=True):
    """What there is to do.

    Attributes:
        has_events: some were not given to their endpoints yet.
        is_any_due: a delivery is, of whatever endpoint.
    """

    has_events: bool
    is_any_due: bool


_POSITION = sa.select(ai_event_cursors.c.position).where(ai_event_cursors.c.name == _CURSOR).scalar_subquery()
_LAST = sa.select(ai_event_head.c.last_position).scalar_subquery()
_LOOK = Prepared(
    sa.select(
        (sa.func.coalesce(_LAST, 0) > sa.func.coalesce(_POSITION, 0)).label("is_behind"),
        sa.exists().where(ai_events.c.position.is_(None)).label("is_unplaced"),
        sa.exists()
        .where(_ROWS.state == sa.literal_column("'waiting'"), _ROWS.next_at <= sa.bindparam("now"))
        .label("is_any_due"),
    )
)


def look(connection: sa.Connection, now: str) -> Work:
    """Return what there is to do, by one statement."""
    found = _LOOK.on(connection, now=now).one()
    return Work(has_events=bool(found.is_behind or found.is_unplaced), is_any_due=bool(found.is_any_due))


def due(connection: sa.Connection, now: str, of_each: int) -> list[tuple[str, str, bool]]:
    """Return deliveries that are due: id, endpoint, and whether that has failed of late.

    Args:
        of_each: how many of each endpoint at most, so that none with a long queue stands before the others.
    """
    other = ai_webhook_deliveries.alias("other")
    first_of_each = (
        sa.select(other.c.delivery_id, other.c.next_at)
        .where(other.c.endpoint_id == _ENDPOINTS.endpoint_id, other.c.state == "waiting", other.c.next_at <= now)
        .order_by(other.c.next_at, other.c.delivery_id)
        .limit(of_each)
    )
    columns: Sequence[sa.ColumnElement[Any]]
    if connection.dialect.name == "postgresql":
        first = first_of_each.lateral("first_of_each")
        columns, joined = (first.c.delivery_id, first.c.next_at), ai_webhook_endpoints.join(first, sa.true())
    else:
        # SQLite has no LATERAL, and looks the few up by their ids, where PostgreSQL would go through all.
        ids = first_of_each.with_only_columns(other.c.delivery_id).correlate(ai_webhook_endpoints)
        columns = (_ROWS.delivery_id, _ROWS.next_at)
        joined = ai_webhook_endpoints.join(ai_webhook_deliveries, _ROWS.delivery_id.in_(ids))
    wanted = (
        sa.select(columns[0], _ENDPOINTS.endpoint_id, _ENDPOINTS.failures)
        .select_from(joined)
        .where(_ENDPOINTS.is_enabled)
        .order_by(columns[1], columns[0])
    )
    return [
        (delivery_id, endpoint_id, failures > 0) for delivery_id, endpoint_id, failures in connection.execute(wanted)
    ]


def claim(connection: sa.Connection, ids: Iterable[str], now: str, until: str, owner: str) -> list[Claimed]:
    """Claim those of some deliveries that nobody has claimed meanwhile; each counts as tried from here on.

    Args:
        until: when others may claim them, should this process be gone.
        owner: names the process; no other one has the name.
    """
    # Whoever waited here for another's claim looks at the row anew, and finds it no longer due.
    taken = (
        sa.update(ai_webhook_deliveries)
        .where(_ROWS.delivery_id.in_(list(ids)), _IS_WAITING, _ROWS.next_at <= now)
        .values(next_at=until, owner=owner, attempts=_ROWS.attempts + 1)
        .returning(*_CLAIMED_COLUMNS)
    )
    return [Claimed(*row) for row in connection.execute(taken)]


def end(
    connection: sa.Connection, claimed: Claimed, owner: str, result: Result, *, now: str, next_at: str | None
) -> bool:
    """Write what came of a try; False where it was another's by then.

    Args:
        next_at: when it is tried again; None: it is delivered, or dead.
    """
    if next_at is not None:
        after: dict[str, Any] = {"next_at": next_at, "owner": ""}
    else:
        after = {"state": "delivered" if result.is_delivered else "dead", "ended_at": now, "owner": ""}
    written = connection.execute(
        sa.update(ai_webhook_deliveries)
        .where(
            _ROWS.delivery_id == claimed.delivery_id,
            _IS_WAITING,
            _ROWS.owner == owner,
            _ROWS.attempts == claimed.attempt,
        )
        .values(last_status=result.status, last_problem=result.problem, **after)
    ).rowcount
    return written == 1


def note_outcome(connection: sa.Connection, endpoint_id: str, *, is_delivered: bool) -> None:
    """Count an endpoint's failures in a row."""
    endpoint_row = sa.update(ai_webhook_endpoints).where(_ENDPOINTS.endpoint_id == endpoint_id)
    if is_delivered:
        # Most have none, and their row is left alone.
        connection.execute(endpoint_row.where(_ENDPOINTS.failures > 0).values(failures=0))
    else:
        connection.execute(endpoint_row.values(failures=_ENDPOINTS.failures + 1))


def switch_off(connection: sa.Connection, endpoint_id: str, reason: str, now: str) -> None:
    """Switch an endpoint off; what waits for it waits on."""
    connection.execute(
        sa.update(ai_webhook_endpoints)
        .where(_ENDPOINTS.endpoint_id == endpoint_id)
        .values(is_enabled=False, off_reason=reason, updated_at=now)
    )


# What operators see and do.


def page(
    connection: sa.Connection, *, state: str | None, endpoint_id: str | None, before: str | None, limit: int
) -> list[dict[str, Any]]:
    """Return deliveries, the newest first."""
    wanted = sa.select(ai_webhook_deliveries).order_by(_ROWS.delivery_id.desc()).limit(limit)
    for column, value in ((_ROWS.state, state), (_ROWS.endpoint_id, endpoint_id)):
        if value is not None:
            wanted = wanted.where(column == value)
    if before is not None:
        wanted = wanted.where(_ROWS.delivery_id < before)
    return [dict(row) for row in connection.execute(wanted).mappings()]


def delivery_as_it_is(connection: sa.Connection, delivery_id: str) -> dict[str, Any] | None:
    """Return a delivery, or None."""
    wanted = sa.select(ai_webhook_deliveries).where(_ROWS.delivery_id == delivery_id)
    row = connection.execute(wanted).mappings().one_or_none()
    return None if row is None else dict(row)


def delivery_to_change(connection: sa.Connection, delivery_id: str) -> dict[str, Any] | None:
    """Return a delivery, or None; nobody else changes it until the transaction ends."""
    wanted = sa.select(ai_webhook_deliveries).where(_ROWS.delivery_id == delivery_id).with_for_update()
    row = connection.execute(wanted).mappings().one_or_none()
    return None if row is None else dict(row)


def revive(connection: sa.Connection, now: str, *, delivery_id: str | None = None, endpoint_id: str = "") -> int:
    """Have a delivery, or all dead ones of an endpoint, tried anew from the beginning; return how many."""
    chosen = (
        sa.and_(_ROWS.endpoint_id == endpoint_id, _ROWS.state == "dead")
        if delivery_id is None
        else _ROWS.delivery_id == delivery_id
    )
    revived = sa.update(ai_webhook_deliveries).where(chosen)
    values = {"state": "waiting", "attempts": 0, "next_at": now, "owner": "", "ended_at": None}
    return connection.execute(revived.values(values)).rowcount


def drop(connection: sa.Connection, delivery_id: str) -> None:
    """Delete a delivery: it is not tried any more."""
    connection.execute(sa.delete(ai_webhook_deliveries).where(_ROWS.delivery_id == delivery_id))


def give_up(connection: sa.Connection, *, before: str, now: str, problem: str, at_most: int) -> int:
    """Have deliveries be dead that were due before a time, and whose endpoint does not take any; return how many."""
    is_out = sa.or_(_ENDPOINTS.failures > 0, sa.not_(_ENDPOINTS.is_enabled))
    takes_none = sa.select(_ENDPOINTS.endpoint_id).where(is_out)
    is_overdue = sa.and_(_IS_WAITING, _ROWS.next_at < before, _ROWS.endpoint_id.in_(takes_none))
    some = sa.select(_ROWS.delivery_id).where(is_overdue).limit(at_most)
    dead = {"state": "dead", "ended_at": now, "owner": "", "last_problem": problem}
    # Looked at once more: one that is being tried by now is not due.
    given_up = sa.update(ai_webhook_deliveries).where(_ROWS.delivery_id.in_(some), is_overdue)
    return connection.execute(given_up.values(dead)).rowcount


def forget(connection: sa.Connection, *, before: str, at_most: int) -> int:
    """Delete deliveries that ended before a time; return how many."""
    old = sa.select(_ROWS.delivery_id).where(_ROWS.ended_at < before).limit(at_most)
    return connection.execute(sa.delete(ai_webhook_deliveries).where(_ROWS.delivery_id.in_(old))).rowcount

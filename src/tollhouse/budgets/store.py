"""The control plane's statements: caps, the state of budgets, and open reservations. They run on every engine."""

from collections.abc import Collection, Iterable, Sequence
from typing import Any

import sqlalchemy as sa

from tollhouse.budgets.model import Budget, BudgetKey, Reservation
from tollhouse.budgets.thresholds import Thresholds
from tollhouse.events import outbox
from tollhouse.events.model import NewEvent
from tollhouse.kit.scopes import Scope
from tollhouse.storage.schema import ai_budget_caps, ai_budgets, ai_instances, ai_reservations, ai_usage_monthly

_LEFT_AT_ONCE = 1000


def set_tenant_cap(connection: sa.Connection, tenant_id: str, billing_period: str, cap_nano_usd: int) -> None:
    """Make a tenant's cap hold from the running month on; a month that begins later takes it from the tenant."""
    for month in _later_months(connection, tenant_id, billing_period):
        _set_month(connection, BudgetKey(tenant_id, month, "tenant", ""), cap_nano_usd)
    if _set_month(connection, BudgetKey(tenant_id, billing_period, "tenant", ""), cap_nano_usd):
        # Admission takes a tenant's row as a sign that its month has begun, with all the caps below it.
        for key, standing_cap_nano_usd in standing_caps(connection, tenant_id, billing_period).items():
            _set_month(connection, key, standing_cap_nano_usd)


def set_tenant_caps(
    connection: sa.Connection, tenant_ids: Iterable[str], billing_period: str, cap_nano_usd: int
) -> None:
    """Make a cap hold from the running month of many tenants on, where their months have begun.

    To be called under ``hold_all_calls``: a month that begins meanwhile would begin with the old cap.
    """
    rows = [{"id": tenant_id, "cap": cap_nano_usd} for tenant_id in sorted(tenant_ids)]
    table = ai_budgets.c
    statement = sa.update(ai_budgets).where(
        table.tenant_id == sa.bindparam("id"),
        table.billing_period >= billing_period,
        table.scope == "tenant",
        table.scope_id == "",
    )
    if rows:
        connection.execute(statement.values(cap_nano_usd=sa.bindparam("cap")), rows)


def set_standing_cap(connection: sa.Connection, key: BudgetKey, cap_nano_usd: int, now: str) -> None:
    """Set the cap of a user, a feature or a service key, from the running month (``key.billing_period``) on.

    What was spent and reserved earlier in the month counts against a new cap.
    """
    hold_calls(connection, key)
    _forget(connection, key)
    connection.execute(
        sa.insert(ai_budget_caps).values(
            tenant_id=key.tenant_id, scope=key.scope, scope_id=key.scope_id, cap_nano_usd=cap_nano_usd, updated_at=now
        )
    )
    for month in (key.billing_period, *_later_months(connection, key.tenant_id, key.billing_period)):
        _set_month(connection, key._replace(billing_period=month), cap_nano_usd)


def tell_thresholds(
    connection: sa.Connection,
    thresholds: Thresholds,
    billing_period: str,
    scope: Scope,
    owners: Collection[tuple[str, str]],
    at_ms: int,
) -> None:
    """Tell of what is spent of caps that this transaction has changed, in the running month and later ones.

    What a lower cap makes the share that is spent is told at once. What a higher one makes it is forgotten, so that it
    is told again once that much of the new cap is spent.

    Args:
        owners: tenant ids with scope ids; their rows are this transaction's, as the change has written them.
        at_ms: when the caps were changed, in milliseconds since the Unix epoch.
    """
    table = ai_budgets.c
    wanted = sa.select(ai_budgets).where(
        table.billing_period >= billing_period, table.scope == scope, table.posted_nano_usd > 0
    )
    if len(owners) == 1:
        ((tenant_id, scope_id),) = owners
        wanted = wanted.where(table.tenant_id == tenant_id, table.scope_id == scope_id)
    events: list[NewEvent] = []
    for row in connection.execute(wanted.order_by(table.tenant_id, table.billing_period)).all():
        if (row.tenant_id, row.scope_id) not in owners:
            continue
        key = BudgetKey(row.tenant_id, row.billing_period, scope, row.scope_id)
        budget = Budget(row.cap_nano_usd, row.posted_nano_usd, row.reserved_nano_usd)
        passed = thresholds.passed(budget)
        if passed != row.told_percent:
            connection.execute(sa.update(ai_budgets).where(_is(ai_budgets, key)).values(told_percent=passed))
            events += thresholds.events(key, budget, row.told_percent, at_ms)
    outbox.append_all(connection, events)


def hold_calls(connection: sa.Connection, key: BudgetKey) -> None:
    """Let no call be admitted or ended, until the transaction is over, that may count against a budget.

    So a budget can be added with what counts against it so far, and a gate closed behind the last call that saw it
    open. An embedded database has one writer, and needs nothing. Elsewhere a tenant's calls all lock its own row; those
    of a service key, which come from any tenant, and those of a month that has not begun have no such row.
    """
    if connection.dialect.name == "sqlite":
        return
    table = ai_budgets.c
    own = sa.select(table.billing_period).where(
        table.tenant_id == key.tenant_id, table.billing_period >= key.billing_period, table.scope == "tenant"
    )
    months = connection.scalars(own.order_by(table.billing_period).with_for_update(key_share=True)).all()
    if key.billing_period not in months:
        hold_all_calls(connection)


def hold_all_calls(connection: sa.Connection) -> None:
    """Let no call of anybody be admitted or ended until the transaction is over."""
    if connection.dialect.name != "sqlite":
        connection.execute(sa.text("LOCK TABLE ai_budgets IN EXCLUSIVE MODE"))


def _later_months(connection: sa.Connection, tenant_id: str, billing_period: str) -> Sequence[str]:
    """Return the months after a given one that calls have opened: there are some after a clock ran ahead.

    Args:
        tenant_id: whose calls; "" for those of all tenants, which count against the cap of a service key.
    """
    table = ai_budgets.c
    is_later = sa.and_(table.scope == "tenant", table.billing_period > billing_period)
    if tenant_id:
        is_later &= table.tenant_id == tenant_id
    return connection.scalars(sa.select(table.billing_period).where(is_later).distinct()).all()


def remove_standing_cap(connection: sa.Connection, key: BudgetKey) -> bool:
    """Lift the cap of a user, a feature or a service key; return whether there was one."""
    hold_calls(connection, key)
    table = ai_budgets.c
    connection.execute(
        sa.delete(ai_budgets).where(
            table.tenant_id == key.tenant_id,
            table.billing_period >= key.billing_period,
            table.scope == key.scope,
            table.scope_id == key.scope_id,
        )
    )
    return _forget(connection, key)


def _forget(connection: sa.Connection, key: BudgetKey) -> bool:
    """Forget a standing cap for the months to come; return whether there was one."""
    table = ai_budget_caps.c
    found = connection.execute(
        sa.delete(ai_budget_caps).where(
            table.tenant_id == key.tenant_id, table.scope == key.scope, table.scope_id == key.scope_id
        )
    )
    return found.rowcount > 0


def _set_month(connection: sa.Connection, key: BudgetKey, cap_nano_usd: int) -> bool:
    """Set a cap in one month; return whether its row had to be made."""
    changed = connection.execute(sa.update(ai_budgets).where(_is(ai_budgets, key)).values(cap_nano_usd=cap_nano_usd))
    if changed.rowcount > 0:
        return False
    connection.execute(
        sa.insert(ai_budgets).values(
            **key._asdict(),
            cap_nano_usd=cap_nano_usd,
            posted_nano_usd=_total(connection, ai_usage_monthly, "cost_nano_usd", key),
            reserved_nano_usd=_total(connection, ai_reservations, "ceiling_nano_usd", key),
        )
    )
    return True


def _is(table: sa.Table, key: BudgetKey) -> sa.ColumnElement[bool]:
    return sa.and_(*(table.c[column] == value for column, value in key._asdict().items()))


def _total(connection: sa.Connection, table: sa.Table, column: str, key: BudgetKey) -> int:
    """Sum what a month's rows of a table count against a budget."""
    total = connection.scalar(sa.select(sa.func.sum(table.c[column])).where(counts_against(table, key)))
    return int(total or 0)


def counts_against(table: sa.Table, key: BudgetKey) -> sa.ColumnElement[bool]:
    """Return the condition under which a row of usage or reservations counts against a budget."""
    conditions = [table.c.billing_period == key.billing_period]
    if key.tenant_id:
        conditions.append(table.c.tenant_id == key.tenant_id)
    if key.scope != "tenant":
        column = {"user": "user_id", "feature": "feature_slug", "key": "key_id"}[key.scope]
        conditions.append(table.c[column] == key.scope_id)
    return sa.and_(*conditions)


def budgets(connection: sa.Connection, billing_period: str, tenant_id: str | None) -> dict[BudgetKey, Budget]:
    """Return the budgets of a month: of one tenant, or all of them."""
    statement = sa.select(ai_budgets).where(ai_budgets.c.billing_period == billing_period)
    if tenant_id is not None:
        statement = statement.where(ai_budgets.c.tenant_id == tenant_id)
    return {
        BudgetKey(row.tenant_id, row.billing_period, row.scope, row.scope_id): Budget(
            row.cap_nano_usd, row.posted_nano_usd, row.reserved_nano_usd
        )
        for row in connection.execute(statement)
    }


def budget(connection: sa.Connection, key: BudgetKey) -> Budget | None:
    """Return one budget of a month, or None where nothing has been counted against it."""
    row = connection.execute(sa.select(ai_budgets).where(_is(ai_budgets, key))).one_or_none()
    return None if row is None else Budget(row.cap_nano_usd, row.posted_nano_usd, row.reserved_nano_usd)


def standing_caps(connection: sa.Connection, tenant_id: str, billing_period: str) -> dict[BudgetKey, int]:
    """Return the caps in nano-USD that are set below a tenant's own; for service keys the tenant id is ""."""
    rows = connection.execute(sa.select(ai_budget_caps).where(ai_budget_caps.c.tenant_id == tenant_id))
    return {BudgetKey(row.tenant_id, billing_period, row.scope, row.scope_id): row.cap_nano_usd for row in rows}


def standing_cap(connection: sa.Connection, key: BudgetKey) -> int | None:
    """Return the cap in nano-USD of a user, a feature or a service key, or None."""
    table = ai_budget_caps.c
    return connection.scalar(
        sa.select(table.cap_nano_usd).where(
            table.tenant_id == key.tenant_id, table.scope == key.scope, table.scope_id == key.scope_id
        )
    )


def open_reservations(connection: sa.Connection) -> Sequence[Reservation]:
    """Return the reservations of attempts that have not ended, the oldest first."""
    return _reservations(connection, sa.select(ai_reservations).where(ai_reservations.c.state == "open"))


def left_by_lost(connection: sa.Connection) -> Sequence[Reservation]:
    """Return attempts that lost instances left open, the oldest first, a bounded number of them."""
    # Of stopped ones too, should one ever have left something.
    of_lost = ai_reservations.join(ai_instances, ai_instances.c.epoch == ai_reservations.c.epoch)
    left = sa.and_(ai_reservations.c.state == "open", ai_instances.c.state != "live")
    return _reservations(connection, sa.select(ai_reservations).select_from(of_lost).where(left).limit(_LEFT_AT_ONCE))


def _reservations(connection: sa.Connection, found: sa.Select[Any]) -> Sequence[Reservation]:
    rows = connection.execute(found.order_by(ai_reservations.c.request_id, ai_reservations.c.attempt))
    return [Reservation(**{name: getattr(row, name) for name in Reservation.__struct_fields__}) for row in rows]

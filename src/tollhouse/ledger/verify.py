"""Proving the books: everything that is kept twice is computed again from the ledger's rows, and compared.

The audit log's chain is followed along with them.

Runs on one snapshot, so it may run beside a serving process.
"""

from collections.abc import Iterator
from collections.abc import Set as AbstractSet

import msgspec
import sqlalchemy as sa

from tollhouse.audit.chain import Head
from tollhouse.audit.verify import verify as verify_audit
from tollhouse.budgets.model import BudgetKey, budget_keys
from tollhouse.ledger.model import GENESIS_HASH, LedgerEntry
from tollhouse.ledger.rollups import DAILY_KEY, MONTHLY_KEY, counts, daily_key, monthly_key
from tollhouse.storage.schema import (
    ROLLUP_COUNTS,
    ai_budgets,
    ai_ledger_archives,
    ai_ledger_heads,
    ai_reservations,
    ai_usage_daily,
    ai_usage_log,
    ai_usage_monthly,
)

_ENTRY_COLUMNS = [ai_usage_log.c[name] for name in LedgerEntry.__struct_fields__]
_ROWS_AT_ONCE = 2000
MAX_FINDINGS = 1000
"""Findings beyond this many are counted and not listed."""


class Finding(msgspec.Struct, frozen=True):
    """Something that does not fit.

    Attributes:
        table: where it stands.
        row: what names the row there.
        problem: what is wrong, with what was expected and what was found.
    """

    table: str
    row: str
    problem: str


class Report(msgspec.Struct):
    """What a verification looked at, and what did not fit.

    Attributes:
        audit_entries: how long the audit log's chain is.
        audit_head: its last row's hash. Noted outside of the database, both are an anchor: what nobody who changes
            the log later can lead a chain of their own to.
        finding_count: how many there are; ``findings`` lists the first ``MAX_FINDINGS``.
    """

    entries: int = 0
    tenants: int = 0
    budgets: int = 0
    reservations: int = 0
    audit_entries: int = 0
    audit_head: str = ""
    finding_count: int = 0
    findings: list[Finding] = msgspec.field(default_factory=list)

    @property
    def is_consistent(self) -> bool:
        return self.finding_count == 0

    def add(self, table: sa.Table, row: object, problem: str) -> None:
        self.finding_count += 1
        if len(self.findings) < MAX_FINDINGS:
            # SQLAlchemy's names are a type of their own, which JSON does not know.
            self.findings.append(Finding(str(table.name), str(row), problem))


Sums = dict[tuple[str, ...], list[int]]


class _Archives:
    """The runs of rows that were archived, by tenant and the hash that each follows; and their months."""

    def __init__(self, connection: sa.Connection) -> None:
        self.months: set[str] = set()
        self.tenants: set[str] = set()
        self._runs: dict[tuple[str, str], tuple[int, str]] = {}
        if connection.dialect.name == "postgresql":
            for row in connection.execute(sa.select(ai_ledger_archives)):
                self.months.add(row.billing_period)
                self.tenants.add(row.tenant_id)
                self._runs[row.tenant_id, row.prev_hash] = (row.entries, row.last_hash)

    def pass_over(self, tenant_id: str, head: tuple[int, str]) -> tuple[int, str]:
        """Return where a chain goes on after the archived rows that follow its head, if any do.

        Each run is passed once: where somebody changed this record, they could lead back to where they began.
        """
        while (run := self._runs.pop((tenant_id, head[1]), None)) is not None:
            head = (head[0] + run[0], run[1])
        return head


def verify(connection: sa.Connection, audit_anchor: Head | None = None) -> Report:
    """Recompute chain, rollups, budgets and reservations from the ledger, and follow the audit log's chain.

    Of archived months the chains alone are still proven: that nothing was put in their place.

    Args:
        audit_anchor: where the audit log's chain once ended, noted outside of the database.
    """
    report = Report()
    archives = _Archives(connection)
    monthly: Sums = {}
    daily: Sums = {}
    heads: dict[str, tuple[int, str]] = {}
    held: dict[tuple[str, int], int] = {}
    for entry_id, entry, row_hash in _entries(connection):
        report.entries += 1
        _check_chain(report, heads, archives, entry_id, entry, row_hash)
        ceiling_nano_usd = _ceiling(held, entry)
        _add(monthly, monthly_key(entry), counts(entry, ceiling_nano_usd))
        _add(daily, daily_key(entry), counts(entry, ceiling_nano_usd))
    for tenant_id in heads.keys() | archives.tenants:
        heads[tenant_id] = archives.pass_over(tenant_id, heads.get(tenant_id, (0, GENESIS_HASH)))
    report.tenants = len(heads)
    _check_heads(report, connection, heads)
    _check_rollup(report, connection, ai_usage_monthly, MONTHLY_KEY, monthly, archives.months)
    _check_rollup(report, connection, ai_usage_daily, DAILY_KEY, daily, archives.months)
    _check_reservations(report, connection, held.keys())
    _check_budgets(report, connection, monthly, archives.months)
    head = verify_audit(connection, report.add, audit_anchor)
    report.audit_entries, report.audit_head = head.entries, head.last_hash
    return report


def _entries(connection: sa.Connection) -> Iterator[tuple[int, LedgerEntry, str]]:
    rows = connection.execution_options(yield_per=_ROWS_AT_ONCE).execute(
        sa.select(ai_usage_log.c.id, ai_usage_log.c.row_hash, *_ENTRY_COLUMNS).order_by(ai_usage_log.c.id)
    )
    for entry_id, row_hash, *values in rows:
        yield entry_id, LedgerEntry(*values), row_hash


def _check_chain(
    report: Report,
    heads: dict[str, tuple[int, str]],
    archives: _Archives,
    entry_id: int,
    entry: LedgerEntry,
    row_hash: str,
) -> None:
    length, previous = archives.pass_over(entry.tenant_id, heads.get(entry.tenant_id, (0, GENESIS_HASH)))
    if entry.prev_hash != previous:
        report.add(ai_usage_log, entry_id, f"prev_hash is not the hash of tenant {entry.tenant_id}'s row before")
    if entry.row_hash() != row_hash:
        report.add(ai_usage_log, entry_id, "row_hash does not fit the row: it was changed after it was written")
    heads[entry.tenant_id] = (length + 1, row_hash)


def _ceiling(held: dict[tuple[str, int], int], entry: LedgerEntry) -> int:
    """Return what was reserved for an attempt of unknown outcome, which its row gives as its cost."""
    attempt = (entry.request_id, entry.attempt)
    if entry.status == "unknown":
        held[attempt] = entry.cost_nano_usd
        return entry.cost_nano_usd
    return held.pop(attempt, 0) if entry.status == "adjustment" else 0


def _add(sums: Sums, key: tuple[str, ...], added: tuple[int, ...]) -> None:
    total = sums.get(key)
    if total is None:
        sums[key] = list(added)
    else:
        for place, count in enumerate(added):
            total[place] += count


def _check_heads(report: Report, connection: sa.Connection, heads: dict[str, tuple[int, str]]) -> None:
    found = {row.tenant_id: (row.entries, row.last_hash) for row in connection.execute(sa.select(ai_ledger_heads))}
    for tenant_id in heads.keys() | found.keys():
        expected, kept = heads.get(tenant_id, (0, GENESIS_HASH)), found.get(tenant_id, (0, GENESIS_HASH))
        if expected[0] != kept[0]:
            report.add(ai_ledger_heads, tenant_id, f"the chain has {expected[0]} rows, {kept[0]} were written")
        elif expected != kept:
            report.add(ai_ledger_heads, tenant_id, "last_hash is not the hash of the chain's last row")


def _check_rollup(
    report: Report,
    connection: sa.Connection,
    table: sa.Table,
    key_columns: tuple[str, ...],
    sums: Sums,
    archived_months: AbstractSet[str],
) -> None:
    month_place = key_columns.index("billing_period")
    missing = {key for key in sums if key[month_place] not in archived_months}
    for row in connection.execute(sa.select(*(table.c[name] for name in (*key_columns, *ROLLUP_COUNTS)))):
        key, kept = tuple(row[: len(key_columns)]), list(row[len(key_columns) :])
        missing.discard(key)
        if key[month_place] in archived_months:
            continue
        expected = sums.get(key, [0] * len(ROLLUP_COUNTS))
        for name, right, found in zip(ROLLUP_COUNTS, expected, kept, strict=True):
            if right != found:
                report.add(table, key, f"{name} is {found}, the ledger's rows give {right}")
    for key in missing:
        report.add(table, key, "is missing, though the ledger has rows for it")


def _check_reservations(report: Report, connection: sa.Connection, unresolved: AbstractSet[tuple[str, int]]) -> None:
    """Every unresolved unknown row is still held, and nothing else is held as unknown or both open and entered."""
    table = ai_reservations.c
    held = set()
    for row in connection.execute(sa.select(table.request_id, table.attempt, table.state)):
        report.reservations += 1
        if row.state == "unknown":
            held.add((row.request_id, row.attempt))
    for name in sorted(held - unresolved):
        report.add(ai_reservations, name, "is held as unknown, but the ledger has no unresolved unknown row for it")
    for name in sorted(unresolved - held):
        report.add(ai_reservations, name, "is missing: the ledger has an unresolved unknown row, which must stay held")
    entered = connection.execute(
        sa.select(table.request_id, table.attempt)
        .join(
            ai_usage_log,
            sa.and_(ai_usage_log.c.request_id == table.request_id, ai_usage_log.c.attempt == table.attempt),
        )
        .where(table.state == "open")
    )
    for request_id, attempt in entered:
        report.add(ai_reservations, (request_id, attempt), "is open, though the ledger has a row for it")


def _check_budgets(report: Report, connection: sa.Connection, monthly: Sums, archived_months: AbstractSet[str]) -> None:
    posted: dict[BudgetKey, int] = {}
    cost_place = ROLLUP_COUNTS.index("cost_nano_usd")
    for key, total in monthly.items():
        tenant_id, period, user_id, feature_slug, _, key_id, *_ = key
        for budget_key in budget_keys(tenant_id, period, user_id, feature_slug, key_id):
            posted[budget_key] = posted.get(budget_key, 0) + total[cost_place]
    reserved: dict[BudgetKey, int] = {}
    table = ai_reservations.c
    columns = (table.tenant_id, table.billing_period, table.user_id, table.feature_slug, table.key_id)
    for *parts, ceiling in connection.execute(sa.select(*columns, table.ceiling_nano_usd)):
        for budget_key in budget_keys(*parts):
            reserved[budget_key] = reserved.get(budget_key, 0) + ceiling
    missing = {key for key in posted.keys() | reserved.keys() if key.scope == "tenant"}
    for row in connection.execute(sa.select(ai_budgets)):
        report.budgets += 1
        budget_key = BudgetKey(row.tenant_id, row.billing_period, row.scope, row.scope_id)
        missing.discard(budget_key)
        if budget_key.billing_period in archived_months:
            continue
        _compare(report, budget_key, "posted_nano_usd", row.posted_nano_usd, posted.get(budget_key, 0))
        _compare(report, budget_key, "reserved_nano_usd", row.reserved_nano_usd, reserved.get(budget_key, 0))
    for budget_key in sorted(missing):
        report.add(ai_budgets, tuple(budget_key), "is missing, though the tenant spent or reserved in that month")


def _compare(report: Report, key: BudgetKey, column: str, found: int, expected: int) -> None:
    if found != expected:
        report.add(ai_budgets, tuple(key), f"{column} is {found}, the ledger and the reservations give {expected}")

"""Large databases, made with set-based SQL: as long as real ones, and shaped like them."""

import sqlite3
from pathlib import Path

_TENANTS = """
WITH RECURSIVE ids(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM ids WHERE id < ?)
INSERT INTO tenant_ai_modules (tenant_id, name, tier, is_active, budget_nano_usd, has_own_budget, created_at,
  updated_at)
SELECT CAST(id AS TEXT), '', 'bench', 1, 1000000000000000000, 1, '2026-01-01T00:00:00.000Z', '2026-01-01T00:00:00.000Z'
  FROM ids WHERE true ON CONFLICT DO NOTHING"""

# Rows of a past month, of a thousand tenants. Their hashes are as long as real ones, but no chain: nothing reads them.
_ROWS = """
WITH RECURSIVE ids(id) AS (SELECT 1 UNION ALL SELECT id + 1 FROM ids WHERE id < ?)
INSERT INTO ai_usage_log (request_id, attempt, tenant_id, user_id, feature_slug, service, key_id, model, provider,
  input_tokens, output_tokens, total_tokens, cost_nano_usd, price_version, status, usage_source, finish_reason,
  latency_ms, billing_period, admitted_at, created_at, prev_hash, row_hash)
SELECT printf('req_%012x%016x', id, id), 1, CAST(100000 + id % 1000 AS TEXT), CAST(id % 50 AS TEXT), 'sales-summary',
  'bench', 'key_0', 'gpt-4o-mini', 'upstream', 312, 87, 399, 99000, 'config 0', 'settled', 'reported', 'stop', 900,
  '2026-01', '2026-01-01T00:00:00.000Z', '2026-01-01T00:00:00.000Z', hex(zeroblob(32)), hex(zeroblob(32)) FROM ids"""


def fill_tenants(database: Path, count: int) -> None:
    """Set up tenants 1 to ``count``."""
    _run(database, _TENANTS, count)


def fill_ledger(database: Path, rows: int) -> None:
    """Lengthen the ledger by so many rows."""
    _run(database, _ROWS, rows)


def _run(database: Path, statement: str, count: int) -> None:
    connection = sqlite3.connect(database)
    with connection:
        connection.execute(statement, (count,))
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()

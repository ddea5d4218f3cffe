"""The gate's look at a tenant, in the transaction that admits the call."""

import sqlite3

from tollhouse.tenants.model import GateState

_GATE = """
SELECT m.is_active, m.expires_at, m.budget_nano_usd, COALESCE(f.is_enabled, 1), m.tier
  FROM tenant_ai_modules m
  LEFT JOIN tenant_ai_features f ON f.tenant_id = m.tenant_id AND f.feature_slug = ?
 WHERE m.tenant_id = ?"""


def gate_state(connection: sqlite3.Connection, tenant_id: str, feature_slug: str) -> GateState | None:
    """Return the state of a tenant's module and feature; None for a tenant that was never set up."""
    row = connection.execute(_GATE, (feature_slug, tenant_id)).fetchone()
    return None if row is None else GateState(bool(row[0]), row[1], row[2], bool(row[3]), row[4])

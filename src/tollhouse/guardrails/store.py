"""The findings' statements. They run on every engine."""

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa

from tollhouse.storage.schema import ai_guardrail_findings


def append_all(connection: sa.Connection, rows: Sequence[dict[str, Any]]) -> None:
    """Write findings, each a row."""
    connection.execute(sa.insert(ai_guardrail_findings), list(rows))

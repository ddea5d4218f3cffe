"""Housekeeping of kept answers. It runs on every engine."""

import sqlalchemy as sa

from tollhouse.storage.schema import ai_idempotency


def forget_expired(connection: sa.Connection, now: str, limit: int) -> int:
    """Delete up to ``limit`` answers that are past their time; return how many."""
    table = ai_idempotency.c
    expired = sa.select(table.claim_id).where(table.expires_at <= now).order_by(table.expires_at).limit(limit)
    return connection.execute(sa.delete(ai_idempotency).where(table.claim_id.in_(expired))).rowcount


def forget_unanswered(connection: sa.Connection) -> int:
    """Free the claims whose process died before it answered; return how many. For the start of an only instance."""
    return connection.execute(sa.delete(ai_idempotency).where(ai_idempotency.c.sealed_answer.is_(None))).rowcount

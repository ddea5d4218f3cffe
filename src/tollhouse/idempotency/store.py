"""Housekeeping of kept answers. It runs on every engine."""

import sqlalchemy as sa

from tollhouse.storage.schema import ai_idempotency


def forget_expired(connection: sa.Connection, now: str, limit: int) -> int:
    """Delete up to ``limit`` answers that are past their time; return how many.

    The claim of a call that is still being answered stays: without it, a retry would pay a second time.
    """
    table = ai_idempotency.c
    is_expired = sa.and_(table.expires_at <= now, table.sealed_answer.is_not(None))
    expired = sa.select(table.claim_id).where(is_expired).order_by(table.expires_at).limit(limit)
    return connection.execute(sa.delete(ai_idempotency).where(table.claim_id.in_(expired))).rowcount


def forget_unanswered(connection: sa.Connection) -> int:
    """Free the claims whose process died before it answered; return how many. For the start of an only instance."""
    return connection.execute(sa.delete(ai_idempotency).where(ai_idempotency.c.sealed_answer.is_(None))).rowcount

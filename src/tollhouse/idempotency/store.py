"""Housekeeping of kept answers. It runs on every engine."""

from collections.abc import Collection

import sqlalchemy as sa

from tollhouse.storage.schema import ai_idempotency


def forget_expired(connection: sa.Connection, now: str, limit: int) -> int:
    """Delete up to ``limit`` claims that are past their time; return how many.

    The claim of a call that is still being answered stays: without it, a retry would pay a second time.
    """
    table = ai_idempotency.c
    is_expired = sa.and_(table.expires_at <= now, sa.or_(table.sealed_answer.is_not(None), table.is_lost))
    expired = sa.select(table.claim_id).where(is_expired).order_by(table.expires_at).limit(limit)
    return connection.execute(sa.delete(ai_idempotency).where(table.claim_id.in_(expired))).rowcount


def end_unanswered(connection: sa.Connection, lost_requests: Collection[str]) -> None:
    """End the claims whose process died before it answered. For the start of an only instance.

    Args:
        lost_requests: the requests that may have been billed; their claims are marked as lost, the others freed.
    """
    table = ai_idempotency.c
    unanswered = sa.and_(table.sealed_answer.is_(None), sa.not_(table.is_lost))
    for claim_id, request_id in connection.execute(sa.select(table.claim_id, table.request_id).where(unanswered)).all():
        row = table.claim_id == claim_id
        if request_id in lost_requests:
            connection.execute(sa.update(ai_idempotency).where(row).values(is_lost=True))
        else:
            connection.execute(sa.delete(ai_idempotency).where(row))

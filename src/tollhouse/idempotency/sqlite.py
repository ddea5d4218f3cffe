"""Claims on SQLite: taken in the transaction that reserves, answered in the one that settles."""

import sqlite3
from collections.abc import Sequence

from tollhouse.idempotency.model import Claim, FreeClaim, Kept

_FIND = "SELECT body_digest, request_id, sealed_answer, expires_at, is_lost FROM ai_idempotency WHERE claim_id = ?"
_TAKE = """
INSERT INTO ai_idempotency (claim_id, body_digest, request_id, expires_at) VALUES (?, ?, ?, ?)
ON CONFLICT (claim_id) DO UPDATE SET
  body_digest = excluded.body_digest, request_id = excluded.request_id, sealed_answer = NULL,
  is_lost = FALSE, expires_at = excluded.expires_at"""
_ANSWER = "UPDATE ai_idempotency SET sealed_answer = ? WHERE claim_id = ? AND request_id = ?"
_FREE = """
DELETE FROM ai_idempotency WHERE claim_id = ? AND request_id = ? AND sealed_answer IS NULL AND NOT is_lost"""
_LOSE = "UPDATE ai_idempotency SET is_lost = TRUE WHERE request_id = ? AND claim_id = ?"


def find(connection: sqlite3.Connection, claim_id: str) -> Kept | None:
    """Return what is kept for a claim."""
    row = connection.execute(_FIND, (claim_id,)).fetchone()
    if row is None:
        return None
    body_digest, request_id, sealed_answer, expires_at, is_lost = row
    return Kept(body_digest, request_id, sealed_answer, expires_at, bool(is_lost))


def take(connection: sqlite3.Connection, claims: Sequence[tuple[Claim, str]]) -> None:
    """Record that each claim is being answered by the request with the given id."""
    connection.executemany(
        _TAKE, [(claim.claim_id, claim.body_digest, request_id, claim.expires_at) for claim, request_id in claims]
    )


def answer(connection: sqlite3.Connection, answers: Sequence[tuple[Claim, str, bytes]]) -> None:
    """Keep the sealed answers of requests: claim, request id, sealed answer."""
    connection.executemany(_ANSWER, [(sealed, claim.claim_id, request_id) for claim, request_id, sealed in answers])


def free(connection: sqlite3.Connection, freed: Sequence[FreeClaim]) -> None:
    """Free the claims of requests that brought no answer, so that a retry under the same key is a new call."""
    connection.executemany(_FREE, [(free.claim.claim_id, free.request_id) for free in freed])


def lose(connection: sqlite3.Connection, lost: Sequence[tuple[Claim, str]]) -> None:
    """Mark the claims of requests whose outcome is unknown: claim, request id."""
    connection.executemany(_LOSE, [(request_id, claim.claim_id) for claim, request_id in lost])

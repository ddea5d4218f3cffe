"""Admission: module gate, idempotency, rate limit and budget, decided together in the transaction that reserves."""

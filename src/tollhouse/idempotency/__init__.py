"""Answers kept for idempotency keys, sealed so that only the caller who has the API key can have them opened."""

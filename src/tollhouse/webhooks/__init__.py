"""Webhooks: events sent to endpoints of others, signed, and again until they arrive."""

"""Limits: how many calls and tokens a minute, and how many calls at once, of a tenant, a user, a feature or a key."""

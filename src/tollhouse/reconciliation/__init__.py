"""Resolving calls of unknown outcome: by what the provider says it billed, or by the time they were held."""

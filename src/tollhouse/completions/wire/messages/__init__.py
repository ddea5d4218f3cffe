"""Anthropic's Messages API, as a client speaks it."""

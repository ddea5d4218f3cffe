"""Guarding answers: texts, whole bodies, and streams in each client's format."""

"""Tollhouse: the one service through which every AI call of every tenant goes."""

__version__ = "0.1.0"

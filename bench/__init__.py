"""Benchmarks: what Tollhouse costs, as ratios against a baseline that runs in turns with it.

``python -m bench`` runs them all; docs/benchmarks.md explains them and keeps the figures.
"""

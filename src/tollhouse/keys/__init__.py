"""Service keys: shown once, stored as keyed digests, and turned into the principal that calls."""

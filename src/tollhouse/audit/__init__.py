"""The audit log: who changed what, and when. Append-only, and never a secret."""

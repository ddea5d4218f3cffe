"""The ledger: every attempt that may be billed, in an append-only, hash-chained log kept with the money."""

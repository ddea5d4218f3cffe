"""Admission, as the data plane asks for it."""

import asyncio

from tollhouse.gate.admission import Admission, Admitted, Replay
from tollhouse.storage.database import Database


class Gate:
    """Admits attempts: what ``admit`` returned ``Admitted`` for is durably reserved."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def admit(self, admission: Admission) -> asyncio.Future[Admitted | Replay]:
        """Reserve an attempt's ceiling.

        Raises:
            ModuleInactive, ModuleExpired, FeatureDisabled: the module gate says no.
            IdempotencyInFlight, IdempotencyMismatch: the idempotency key is taken.
            RateLimited: the tenant's rate limit is reached.
            BudgetExceeded: the ceiling does not fit a budget.
            Unavailable: the database cannot be written.
        """
        return self._database.submit(admission)

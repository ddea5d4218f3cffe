"""Ending attempts: settled, released, or held as unknown. Every path of a call that reserved comes through here."""

import asyncio
from collections import deque
from collections.abc import Awaitable, Sequence

import structlog

from tollhouse.budgets import store as budgets
from tollhouse.budgets.model import Reservation
from tollhouse.errors import EpochLost, InternalError, Unavailable, Undecided
from tollhouse.idempotency import store as idempotency
from tollhouse.idempotency.model import Claim, FreeClaim
from tollhouse.kit.clock import Clock, utc_text
from tollhouse.ledger.model import Ending, Release, Settlement
from tollhouse.providers.usage import Usage
from tollhouse.storage.database import Database

_LOG = structlog.get_logger("tollhouse.ledger")
_RETRY_EVERY_S = 1.0
_RECOVERED_AT_ONCE = 1000
_WRITTEN_AT_ONCE = 500


class Ledger:
    """Writes what became of attempts; what the database cannot take now is kept and tried again."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._unwritten: deque[Ending] = deque()

    @property
    def unwritten(self) -> int:
        """How many ended attempts wait for the database; their reservations stay counted meanwhile."""
        return len(self._unwritten)

    def settle(self, settlement: Settlement) -> Awaitable[None]:
        """Make an attempt's end durable.

        Raises:
            Unavailable: the database cannot be written. The settlement is kept, and written once it can.
        """
        return self._end(settlement)

    async def release(self, reservation: Reservation) -> None:
        """Give back the reservation of an attempt that cannot be billed; raises as ``settle``."""
        await self._end(Release(reservation))

    async def hold(self, reservation: Reservation, latency_ms: int, claim: Claim | None = None) -> None:
        """Enter an attempt whose outcome is unknown: its ceiling stays counted; raises as ``settle``."""
        await self._end(self._unknown(reservation, latency_ms, claim))

    async def free(self, claim: Claim, request_id: str) -> None:
        """Free the idempotency key of a request that cost nothing; raises as ``settle``."""
        await self._end(FreeClaim(claim, request_id))

    def _unknown(self, reservation: Reservation, latency_ms: int, claim: Claim | None = None) -> Settlement:
        return Settlement(
            reservation=reservation,
            status="unknown",
            usage=Usage(),
            usage_source="none",
            cost_nano_usd=reservation.ceiling_nano_usd,
            finish_reason="",
            latency_ms=latency_ms,
            created_at=utc_text(self._clock.now_ms()),
            claim=claim,
        )

    async def _end(self, ending: Ending) -> None:
        try:
            await self._database.submit(ending)
        except (Undecided, EpochLost):
            # Told to ``write_later`` should it fail yet; or held as unknown by whoever took it over.
            raise
        except Unavailable:
            self.write_later(ending)
            raise

    def write_later(self, ending: Ending) -> None:
        """Keep an ending that the database cannot take now.

        The money stays reserved; nothing is lost but the caller's answer. Bounded by the open reservations.
        """
        self._unwritten.append(ending)

    def give_back(self, reservation: Reservation, claim: Claim | None) -> None:
        """Undo an admission that nobody waited for any more, so that its call is not made."""
        self.write_later(Release(reservation))
        if claim is not None:
            self.write_later(FreeClaim(claim, reservation.request_id))

    async def hold_lost(self, reservations: Sequence[Reservation]) -> int:
        """Enter what lost instances left behind as unknown; return how many, less what others entered first."""
        endings = (self._database.submit(self._unknown(reservation, 0)) for reservation in reservations)
        outcomes = await asyncio.gather(*endings, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException) and not isinstance(outcome, Unavailable | InternalError):
                raise outcome
        return sum(outcome is None or outcome is True for outcome in outcomes)

    async def recover(self) -> int:
        """Enter what was in flight when the last process died as unknown; return how many attempts.

        For the start of an only instance, before it takes calls.
        """
        abandoned = await self._database.read(budgets.open_reservations)
        for start in range(0, len(abandoned), _RECOVERED_AT_ONCE):
            batch = abandoned[start : start + _RECOVERED_AT_ONCE]
            await asyncio.gather(*(self._database.submit(self._unknown(reservation, 0)) for reservation in batch))
        lost = {reservation.request_id for reservation in abandoned}
        await self._database.write(lambda connection: idempotency.end_unanswered(connection, lost))
        if abandoned:
            _LOG.warning("calls in flight at the last stop are held as unknown", calls=len(abandoned))
        return len(abandoned)

    async def keep_writing(self) -> None:
        """Write what could not be written, once the database takes it again; runs until cancelled."""
        while True:
            await asyncio.sleep(_RETRY_EVERY_S)
            await self.flush()

    async def flush(self) -> None:
        """Try once to write what is left, in the order it came; keeps what the database still cannot take."""
        while self._unwritten:
            batch = [self._unwritten.popleft() for _ in range(min(len(self._unwritten), _WRITTEN_AT_ONCE))]
            outcomes = await asyncio.gather(*map(self._written, batch))
            left = [ending for ending, is_written in zip(batch, outcomes, strict=True) if not is_written]
            if left:
                self._unwritten.extendleft(reversed(left))
                return

    async def _written(self, ending: Ending) -> bool:
        """Try to write an ending; return whether there is nothing more to be done about it here."""
        try:
            await self._database.submit(ending)
        except (Undecided, EpochLost):
            return True
        except Unavailable:
            return False
        except Exception:  # noqa: BLE001 - whatever it is, those that are written beside it are not to be lost by it
            # Its reservation stays counted, and the next start enters it as unknown.
            _LOG.exception("an ended attempt does not fit the ledger")
        return True

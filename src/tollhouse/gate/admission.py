"""What asks for admission, and what may come of it."""

from collections.abc import Callable

import msgspec

from tollhouse.budgets.model import Reservation
from tollhouse.idempotency.model import Claim
from tollhouse.limits.model import Standing


class Admission(msgspec.Struct, frozen=True, gc=False):
    """An attempt that wants to be dispatched.

    Attributes:
        reservation: what will be durable if it is admitted.
        claim: the idempotency key's claim; given by a request's first attempt alone.
        is_first: a request's first attempt is limited; a further one belongs to the same call.
        epoch: the epoch that the first attempt was admitted in, for a further one: a call that was taken over is not
            gone on with.
        tiers: the tiers whose tenants may use the model that the call names; None for all.
        tokens: how many tokens the call may use, as far as its limits go.
    """

    reservation: Reservation
    claim: Claim | None = None
    is_first: bool = True
    epoch: int = 0
    tiers: frozenset[str] | None = None
    tokens: int = 0


def _always(_epoch: int) -> bool:
    return True


class Admitted(msgspec.Struct, frozen=True):
    """The reservation is durable: the provider may be called.

    Attributes:
        epoch: the life of this instance that it was admitted in.
        standing: where the limits that hold for the call stood then.
    """

    epoch: int = 0
    is_held: Callable[[int], bool] = _always
    standing: tuple[Standing, ...] = ()

    def may_dispatch(self) -> bool:
        """Whether this instance still holds the reservation; to be asked right before sending."""
        return self.is_held(self.epoch)


class Replay(msgspec.Struct, frozen=True):
    """The same idempotency key was answered before: its answer, still sealed, and the request that it was."""

    sealed_answer: bytes
    request_id: str

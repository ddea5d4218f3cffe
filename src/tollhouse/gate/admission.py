"""What asks for admission, and what may come of it."""

import msgspec

from tollhouse.budgets.model import Reservation
from tollhouse.idempotency.model import Claim


class Admission(msgspec.Struct, frozen=True, gc=False):
    """An attempt that wants to be dispatched.

    Attributes:
        reservation: what will be durable if it is admitted.
        claim: the idempotency key's claim; given by a request's first attempt alone.
        is_first: a request's first attempt is rate-limited; a further one belongs to the same call.
    """

    reservation: Reservation
    claim: Claim | None = None
    is_first: bool = True


class Admitted(msgspec.Struct, frozen=True):
    """The reservation is durable: the provider may be called."""


class Replay(msgspec.Struct, frozen=True):
    """The same idempotency key was answered before: its answer, still sealed, and the request that it was."""

    sealed_answer: bytes
    request_id: str

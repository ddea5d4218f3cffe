"""What an instance knows of its own right to act: its epoch, and until when nobody can have declared it lost."""

from tollhouse.kit.clock import Clock

_SAFE_SHARE = 0.75


class Lease:
    """The right to dispatch under an epoch, renewed by heartbeats.

    Others declare an instance lost once they have seen no new heartbeat for ``lease_s``, each by its own clock. Nobody
    can have seen one before it was sent, so for most of that time after sending it this instance cannot be lost. The
    rest is left for clocks that run at different speeds.
    """

    def __init__(self, clock: Clock, lease_s: float) -> None:
        self._clock = clock
        self._safe_s = lease_s * _SAFE_SHARE
        self._until_s = 0.0
        self.lease_s = lease_s
        self.epoch = 0
        self.is_over = False

    def begin(self, epoch: int, sent_at_s: float) -> None:
        """Hold a new epoch, whose registration was sent at an instant of the monotonic clock."""
        self.epoch = epoch
        self.renew(sent_at_s)

    def renew(self, sent_at_s: float) -> None:
        """Take note that a heartbeat sent at an instant of the monotonic clock was accepted."""
        self._until_s = sent_at_s + self._safe_s

    def end(self) -> None:
        """Give up for good: the database is another version's now."""
        self.is_over = True

    def holds(self, epoch: int) -> bool:
        """Whether nobody can have declared an epoch of this instance lost by now."""
        return epoch == self.epoch and not self.is_over and self._clock.monotonic_s() < self._until_s

"""All that stands before one provider, together: what operators look at."""

from collections.abc import Iterator, Mapping

import msgspec

from tollhouse.kit.clock import Clock
from tollhouse.providers.base import Adapter
from tollhouse.resilience.api_keys import KeyRotation, KeySnapshot
from tollhouse.resilience.breaker import BreakerSnapshot, CircuitBreaker, State
from tollhouse.resilience.bulkhead import Bulkhead
from tollhouse.resilience.reachability import Reachability
from tollhouse.telemetry.guards import GuardSample

_WORST: tuple[State, ...] = ("closed", "half_open", "open")


class ProviderGuards(msgspec.Struct, frozen=True):
    """What stands before one provider.

    Attributes:
        breakers: by model; none where breakers are switched off.
        keys: None for a provider with one key, or none.
    """

    breakers: Mapping[str, CircuitBreaker]
    bulkhead: Bulkhead | None = None
    keys: KeyRotation[Adapter] | None = None

    def worst_state(self) -> State | None:
        """Return the state of the breaker that is worst off; None without any."""
        return max((each.state for each in self.breakers.values()), key=_WORST.index, default=None)


class Guards:
    """What stands before all providers, by their names."""

    def __init__(self, providers: Mapping[str, ProviderGuards], clock: Clock) -> None:
        self.providers = providers
        self._clock = clock

    def breakers(self, provider: str) -> dict[str, BreakerSnapshot]:
        """Return the breakers of a provider's models as they are now."""
        now_s = self._clock.monotonic_s()
        return {model: breaker.snapshot(now_s) for model, breaker in self.providers[provider].breakers.items()}

    def keys(self, provider: str) -> dict[str, KeySnapshot]:
        """Return a provider's keys as they are now; none where it has but one."""
        keys = self.providers[provider].keys
        return {} if keys is None else keys.snapshot(self._clock.monotonic_s())

    def samples(self, reachability: Reachability) -> Iterator[GuardSample]:
        """Return what is shown as metrics."""
        for name, guards in self.providers.items():
            bulkhead = guards.bulkhead
            yield GuardSample(
                provider=name,
                reachable=reachability.known(name),
                states={model: breaker.state for model, breaker in guards.breakers.items()},
                keys={key: (state.rests_s is None, state.turned_away) for key, state in self.keys(name).items()},
                under_way=None if bulkhead is None else bulkhead.under_way,
                waiting=None if bulkhead is None else bulkhead.waiting,
            )

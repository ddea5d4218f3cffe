"""What explains the difference between a provider's usage and the ledger's. Nothing here knows a database.

A difference is resolved only where the attempts of unknown outcome can be all of it. What cannot be explained is
reported and changes nothing, since a wrong guess would move money.
"""

import re
from collections.abc import Callable, Collection, Iterable, Sequence

import msgspec

from tollhouse.budgets.model import Reservation
from tollhouse.ledger.model import UsageSource
from tollhouse.pricing.model import Price, cost_nano_usd
from tollhouse.providers.usage import Usage
from tollhouse.reconciliation.model import (
    CLASSES,
    LedgerUsage,
    Match,
    PriceOf,
    Resolution,
    UsageBucket,
    combined,
)

# Providers bill a model under the snapshot it stood for: gpt-4o-mini as gpt-4o-mini-2024-07-18.
_SNAPSHOT = re.compile(r"-(\d{4}-\d{2}-\d{2}|\d{8})$")
_TOO_MUCH = "the provider counted more than the calls of unknown outcome can have cost"


def known_name(model: str, known: Collection[str]) -> str:
    """Return the one of the known names that an export's model goes by; the model itself where none does."""
    if model in known:
        return model
    plain = _SNAPSHOT.sub("", model)
    return plain if plain in known else model


def merged(buckets: Iterable[UsageBucket]) -> list[UsageBucket]:
    """Return the buckets by time, those of one model and the same span as one.

    Raises:
        ValueError: two of a model overlap without being the same span, so that usage would count twice.
    """
    found: dict[tuple[str, int, int], UsageBucket] = {}
    for bucket in buckets:
        span = (bucket.model, bucket.start_ms, bucket.end_ms)
        found[span] = _joined(found[span], bucket) if span in found else bucket
    last: dict[str, int] = {}
    in_order = sorted(found.values(), key=lambda bucket: (bucket.start_ms, bucket.end_ms, bucket.model))
    for bucket in in_order:
        if bucket.start_ms < last.get(bucket.model, bucket.start_ms):
            raise ValueError(f"two spans of model {bucket.model} overlap; expected each time in one of them")
        last[bucket.model] = bucket.end_ms
    return in_order


def _joined(first: UsageBucket, second: UsageBucket) -> UsageBucket:
    counted = first.requests is not None and second.requests is not None
    joined = msgspec.structs.replace(
        first,
        requests=(first.requests or 0) + (second.requests or 0) if counted else None,
        splits_reasoning=first.splits_reasoning and second.splits_reasoning,
        splits_media=first.splits_media and second.splits_media,
        counts_searches=first.counts_searches and second.counts_searches,
    )
    return msgspec.structs.replace(joined, usage=joined.comparable(combined(first.usage, second.usage)))


def match(bucket: UsageBucket, ledger: LedgerUsage, unknown: Sequence[Reservation], price_of: PriceOf) -> Match:
    """Compare a bucket with the ledger, and say how its attempts of unknown outcome are to be entered.

    Args:
        ledger: what was billed of this model in this time.
        unknown: its unresolved attempts, the oldest first.
        price_of: gives the price of an attempt's configured model.
    """
    billed = bucket.comparable(ledger.usage)
    unclaimed = combined(bucket.usage, billed, sign=-1)
    requests = None if bucket.requests is None else _unclaimed_requests(bucket.requests, ledger)
    seen = msgspec.structs.replace(ledger, usage=billed)
    found = Match(bucket, seen, unclaimed, requests, len(unknown), "differs")
    if unclaimed == Usage() and not requests:
        resolutions = tuple(map(not_billed, unknown))
        return msgspec.structs.replace(found, outcome="resolved" if resolutions else "agrees", resolutions=resolutions)
    reason = _contradiction(unclaimed, requests, len(unknown))
    if reason:
        return msgspec.structs.replace(found, reason=reason)
    try:
        return msgspec.structs.replace(found, outcome="resolved", resolutions=_billed(unclaimed, unknown, price_of))
    except ValueError as error:
        return msgspec.structs.replace(found, reason=str(error))


def _unclaimed_requests(counted: int, ledger: LedgerUsage) -> int:
    """Return how many calls the provider counted beyond the ledger's; negative if the ledger has more."""
    more = counted - ledger.requests
    return more if more < 0 else max(0, more - ledger.sharing)


def skipped(bucket: UsageBucket, reason: str) -> Match:
    """Return a bucket that cannot be compared yet."""
    return Match(bucket, LedgerUsage(), Usage(), None, 0, "skipped", reason)


def _contradiction(unclaimed: Usage, requests: int | None, unknown: int) -> str:
    """Say why attempts of unknown outcome cannot be the difference; "" if they can."""
    too_few = [name for name in CLASSES if getattr(unclaimed, name) < 0]
    if requests is not None and requests < 0:
        too_few.append("requests")
    if too_few:
        return f"the ledger has more than the provider counted: {', '.join(too_few)}"
    if not unknown:
        return "the provider counted more than the ledger has, and no call of unknown outcome is left to explain it"
    if requests is not None and requests > unknown:
        return f"the provider counted {requests} more calls than the ledger, which has {unknown} of unknown outcome"
    if requests == 0:
        return "the provider counted more tokens than the ledger has, for as many calls"
    return ""


def not_billed(reservation: Reservation) -> Resolution:
    """Return the resolution of an attempt that cost nothing."""
    return Resolution(reservation, Usage(), "none", 0, reservation.price_version)


def _billed(unclaimed: Usage, unknown: Sequence[Reservation], price_of: PriceOf) -> tuple[Resolution, ...]:
    """Return how the unclaimed usage is entered; raises ValueError when the attempts cannot have used it."""
    prices = [_price(reservation.model, price_of) for reservation in unknown]
    ceilings = [reservation.ceiling_nano_usd for reservation in unknown]

    def has_room(place: int, usage: Usage) -> bool:
        return _cost(prices[place], usage) <= ceilings[place]

    shares = shared(unclaimed, ceilings, has_room)
    source: UsageSource = "reported" if len(unknown) == 1 else "estimated"
    return tuple(
        Resolution(reservation, share, source, _cost(price, share), price.version)
        if share != Usage()
        else not_billed(reservation)
        for reservation, share, price in zip(unknown, shares, prices, strict=True)
    )


def _price(model: str, price_of: PriceOf) -> Price:
    price = price_of(model)
    if price is None:
        raise ValueError(f"model {model} has no price any more, so its unclaimed usage cannot be entered")
    return price


def _cost(price: Price, usage: Usage) -> int:
    """Return what an attempt cost in nano-USD; one without usage was not billed, not even for the request."""
    return cost_nano_usd(price, usage) if usage != Usage() else 0


def shared(usage: Usage, weights: Sequence[int], has_room: Callable[[int, Usage], bool]) -> list[Usage]:
    """Return a usage divided in proportion to weights, exactly in sum, each class by largest remainder.

    Args:
        has_room: tells whether the share at a place may be a usage. A token left over by rounding goes to the next
            place where it may.

    Raises:
        ValueError: there is no room for all of it.
    """
    # Ceilings of nothing, as a free model has them, share evenly.
    total = sum(weights)
    if total == 0:
        weights, total = [1] * len(weights), len(weights)
    amounts = [(name, getattr(usage, name)) for name in CLASSES]
    shares = [Usage(*(amount * weight // total for _, amount in amounts)) for weight in weights]
    for name, amount in amounts:
        left = amount - sum(getattr(share, name) for share in shares)
        remainders = [amount * weight % total for weight in weights]
        places = sorted(range(len(shares)), key=remainders.__getitem__, reverse=True)
        for _ in range(left):
            place = _give(shares, name, places, has_room)
            places.remove(place)
            places.append(place)
    if not all(has_room(place, share) for place, share in enumerate(shares)):
        raise ValueError(_TOO_MUCH)
    return shares


def _give(shares: list[Usage], name: str, places: Sequence[int], has_room: Callable[[int, Usage], bool]) -> int:
    """Add a token of a class to the first share that has room for it, and return its place."""
    for place in places:
        larger = msgspec.structs.replace(shares[place], **{name: getattr(shares[place], name) + 1})
        if has_room(place, larger):
            shares[place] = larger
            return place
    raise ValueError(_TOO_MUCH)

"""Calls with random ceilings that cost random amounts, against a cap that never holds all of them at once."""

import random
from collections.abc import Iterator

import pytest
import uvloop

from harness.calls import ceiling_nano_usd, most_input_tokens
from harness.faults import AT_MOST, OUTPUT_NANO_USD, Caps, measure, new_key, set_cap
from harness.load import Outcome, all_at_once, connect
from harness.reckoning import numbered_body, numbered_call
from harness.service import TenantId
from tollhouse.testing import Behaviour

# From calls that cost next to nothing to some that take a good part of the cap.
MAX_TOKENS = (1, 10, 50, 200, 1000, 5000)


def max_tokens_of(number: int) -> int:
    return random.Random(number).choice(MAX_TOKENS)


def ceiling_of(number: int) -> int:
    return ceiling_nano_usd(numbered_body(number, 0, max_tokens=max_tokens_of(number)), **AT_MOST)


def calls(tenant: TenantId, key: str, count: int, *, start: int = 0) -> list[bytes]:
    return [
        numbered_call(number, tenant, key, max_tokens=max_tokens_of(number)) for number in range(start, start + count)
    ]


def behaviours(count: int, seed: int) -> Iterator[Behaviour]:
    """Yield ways to answer; an answer takes a random part of what its call allows."""
    chance = random.Random(seed)
    most_input = most_input_tokens(numbered_body(0, 0))
    for _ in range(count):
        yield Behaviour(
            input_tokens=chance.randrange(most_input + 1),
            output_factor=None if chance.random() < 0.2 else chance.random(),
            use_full_max_tokens=chance.random() < 0.1,
            delay_s=chance.choice([0, 0, 0.005, 0.03]),
        )


async def in_turn(ports: list[int], requests: list[bytes]) -> list[Outcome]:
    """Make one call after the other, each at another process."""
    connections = [await connect(port) for port in ports]
    found = []
    try:
        for number, request in enumerate(requests):
            found.append(await connections[number % len(ports)].call(number, request))
    finally:
        for connection in connections:
            connection.close()
    return found


def at_random(scenario, services, fake, count):
    service, ports = services[0], [each.port for each in services]
    tenant, key = service.tenant(), new_key(services)
    cap = sum(ceiling_of(number) for number in range(count)) // 8 + 1
    set_cap(service, tenant, cap)
    fake.script(behaviours(2 * count, count))

    outcomes = uvloop.run(all_at_once(ports, calls(tenant, key, count)))

    assert {outcome.status for outcome in outcomes} == {200, 402}
    measure(service, fake, tenant, outcomes, cap_nano_usd=cap, ceiling_of=ceiling_of).check(scenario, cap=cap)

    # Then nothing is under way any more: each call is served exactly if its ceiling fits what is left.
    spent = sum(billed(outcome) for outcome in outcomes)
    later_calls = range(count, count + 150)
    left = sum(map(ceiling_of, later_calls)) // 30
    caps = Caps(service, tenant)
    caps.set(spent + left)
    later = uvloop.run(in_turn(ports, calls(tenant, key, len(later_calls), start=count)))
    for outcome in later:
        outcome.number += count
        fits = ceiling_of(outcome.number) <= left
        assert outcome.status == (200 if fits else 402), (outcome, left)
        left -= billed(outcome)
    assert {outcome.status for outcome in later} == {200, 402}
    budget = service.budget(tenant)
    assert (budget["posted_nano_usd"], budget["reserved_nano_usd"]) == (budget["cap_nano_usd"] - left, 0)
    both = measure(service, fake, tenant, later, ceiling_of=ceiling_of, caps=caps, earlier=outcomes)
    both.check(f"{scenario}, then in turn")


def billed(outcome: Outcome) -> int:
    return int(outcome.json["cost_usd"] * 1_000_000_000) if outcome.status == 200 else 0


def test_1000_calls_of_random_ceilings_and_costs(instances, fake):
    assert max(map(max_tokens_of, range(1000))) * OUTPUT_NANO_USD < sum(map(ceiling_of, range(1000))) // 8
    at_random("random amounts, 1,000 calls", instances, fake, 1000)


@pytest.mark.slow
def test_10000_calls_of_random_ceilings_and_costs(instances, fake):
    at_random("random amounts, 10,000 calls", instances, fake, 10_000)

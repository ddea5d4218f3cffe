"""What counts as unusually long."""

import random

from tollhouse.resilience.latency import LatencyQuantile


def known(latency):
    value_s = latency.value_s()
    assert value_s is not None
    return value_s


def test_a_quantile_is_found_to_within_a_tenth():
    latency = LatencyQuantile(0.95)
    draw = random.Random(8)
    durations = [draw.lognormvariate(-1.0, 0.7) for _ in range(1500)]
    for duration_s in durations:
        latency.add(duration_s)
    exact_s = sorted(durations)[int(0.95 * len(durations))]
    assert exact_s <= known(latency) * 1.01
    assert known(latency) <= exact_s * 1.15


def test_nothing_is_known_of_too_few_calls():
    latency = LatencyQuantile(0.95)
    for _ in range(49):
        latency.add(0.1)
    assert latency.value_s() is None
    latency.add(0.1)
    assert 0.09 < known(latency) < 0.12


def test_what_was_long_ago_is_forgotten():
    latency = LatencyQuantile(0.95)
    for _ in range(1900):
        latency.add(10.0)
    for _ in range(30_000):
        latency.add(0.1)
    assert known(latency) < 0.12


def test_durations_beyond_all_bounds_count_too():
    latency = LatencyQuantile(1.0)
    for _ in range(60):
        latency.add(0.0)
    assert known(latency) <= 0.0012
    for _ in range(60):
        latency.add(1e9)
    assert known(latency) > 500

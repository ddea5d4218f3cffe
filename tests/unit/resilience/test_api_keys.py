"""Keys in turns."""

from collections import Counter

from tollhouse.resilience.api_keys import ApiKey, KeyRotation


def rotation(**weights):
    return KeyRotation([ApiKey(name, f"account {name}", weight) for name, weight in weights.items()], rest_s=60.0)


def chosen(keys, times, now_s=0.0):
    return [keys.choose(now_s).name for _ in range(times)]


def test_calls_are_shared_out_by_weight_and_evenly_spread():
    keys = rotation(a=5, b=1, c=1)
    names = chosen(keys, 70)
    assert Counter(names) == {"a": 50, "b": 10, "c": 10}
    for start in range(0, 70, 7):
        assert Counter(names[start : start + 7]) == {"a": 5, "b": 1, "c": 1}


def test_a_key_that_was_turned_away_rests_and_comes_back():
    keys = rotation(a=1, b=1)
    first = keys.choose(0.0)
    assert keys.turned_away(first, 0.0, None)
    assert set(chosen(keys, 10, 59.9)) == {"b"}
    assert set(chosen(keys, 10, 60.0)) == {"a", "b"}
    assert keys.snapshot(30.0)["a"].rests_s == 30.0
    assert keys.snapshot(60.0)["a"].rests_s is None
    assert keys.snapshot(60.0)["a"].turned_away == 1


def test_it_rests_for_as_long_as_the_provider_says():
    keys = rotation(a=1, b=1)
    keys.turned_away(keys.keys[0], 0.0, 3.0)
    assert set(chosen(keys, 4, 2.9)) == {"b"}
    assert set(chosen(keys, 4, 3.0)) == {"a", "b"}


def test_when_all_rest_the_one_whose_rest_ends_first_is_used():
    keys = rotation(a=1, b=1, c=1)
    assert keys.turned_away(keys.keys[0], 0.0, 30.0)
    assert keys.turned_away(keys.keys[1], 0.0, 10.0)
    assert not keys.turned_away(keys.keys[2], 0.0, 20.0)
    assert set(chosen(keys, 5, 1.0)) == {"b"}

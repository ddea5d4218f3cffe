import re
import subprocess
import sys

import pytest

from tollhouse.kit.ids import id_text, id_value, new_id


def test_ids_sort_by_the_time_they_were_made():
    instants = [1, 1_775_000_000_123, 1_775_000_000_124, 4_102_444_800_000]
    ids = [new_id("req", now_ms) for now_ms in instants]
    assert ids == sorted(ids)


def test_an_id_names_what_it_is_for():
    assert re.fullmatch(r"key_[0-9a-f]{28}", new_id("key", 1_775_000_000_123))


def test_ids_of_the_same_millisecond_differ():
    assert len({new_id("req", 1) for _ in range(20_000)}) == 20_000


_FORK = """
import os
from tollhouse.kit.ids import new_id
child = os.fork()
os.write(1, new_id("req", 1).encode() + b"\\n")
if child:
    os.waitpid(child, 0)
"""


def test_a_process_that_was_forked_makes_ids_of_its_own():
    told = subprocess.run([sys.executable, "-c", _FORK], capture_output=True, text=True, check=True, timeout=60)
    assert len(set(told.stdout.split())) == 2, told


def test_a_number_and_its_digits_name_the_same_tenant():
    assert id_text(42) == id_text("42") == "42"


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0", 0),
        ("42", 42),
        ("999999999999999", 999_999_999_999_999),
        # As numbers these would name another id, or not survive a JSON reader.
        ("042", "042"),
        ("00", "00"),
        ("1790000000000000000", 1790000000000000000),
        ("9223372036854775807", 2**63 - 1),
        ("9223372036854775808", "9223372036854775808"),
        ("-1", "-1"),
        ("4.2", "4.2"),
        ("٤٢", "٤٢"),
        ("²", "²"),
        ("acme", "acme"),
        ("", ""),
    ],
)
def test_ids_of_digits_come_back_as_integers_and_all_others_as_they_were(text, value):
    assert id_value(text) == value
    assert type(id_value(text)) is type(value)
    assert id_text(id_value(text)) == text

from decimal import Decimal

import pytest

from tollhouse.cli.output import dollars, print_json, print_table, table
from tollhouse.cli.session import Answer


def test_columns_are_aligned_and_those_of_numbers_stand_to_the_right():
    lines = table(("NAME", "CALLS", "COST"), [("a", "7", "$0.10"), ("longer", "1200", "$12.00")])

    assert lines == [
        "NAME    CALLS    COST",
        "a           7   $0.10",
        "longer   1200  $12.00",
    ]


def test_a_column_with_one_word_among_its_numbers_stands_to_the_left():
    assert table(("X",), [("1",), ("none",)]) == ["X", "1", "none"]


def test_absent_values_and_switches_are_shown_as_words(capsys):
    print_table(("A", "B", "C", "D"), [(None, "", True, False)], when_empty="nothing")

    assert capsys.readouterr().out.splitlines()[1].split() == ["-", "-", "yes", "no"]


def test_an_empty_table_is_a_sentence(capsys):
    print_table(("A",), [], when_empty="There is nothing.")

    assert capsys.readouterr().out == "There is nothing.\n"


@pytest.mark.parametrize(
    ("amount", "shown"),
    [
        ("10", "$10.00"),
        ("0", "$0.00"),
        ("0.5", "$0.50"),
        ("0.0005976", "$0.0005976"),
        ("1E+3", "$1000.00"),
        ("123456789.123456789", "$123456789.123456789"),
    ],
)
def test_amounts_are_shown_exactly_and_with_two_decimals_at_least(amount, shown):
    assert dollars(Decimal(amount)) == shown


def test_an_answers_digits_reach_the_screen_as_they_came(capsys):
    body = b'{"cost_usd":123456789.123456789,"tokens":[1,2]}'

    print_json(Answer(body))

    assert '"cost_usd": 123456789.123456789' in capsys.readouterr().out


def test_amounts_taken_out_of_answers_are_printed_as_the_same_numbers(capsys):
    value = Answer(b'[{"cost_usd":123456789.123456789}]').value

    print_json(value)

    assert '"cost_usd": 123456789.123456789' in capsys.readouterr().out

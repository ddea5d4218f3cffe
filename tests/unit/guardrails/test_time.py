"""No text makes a guardrail slow: four times the text takes about four times as long, whatever it is made of."""

import random
import time

import pytest

from tollhouse.config import Guardrails
from tollhouse.guardrails.answers.text import chain
from tollhouse.guardrails.findings import Findings
from tollhouse.guardrails.inspection import Guard

POLICY = Guardrails(
    normalize="nfkc", hidden_characters="redact", prompt_injection="flag", pii="redact", secrets="redact",
    markup="redact",
)  # fmt: skip
GUARD = Guard(POLICY)
VAULT = GUARD.inspect({"messages": [{"role": "user", "content": "a@b.example 0772 123456 4111111111111111"}]}).vault
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.abc "
# What begins like something, again and again, and is nothing in the end, or is it each time.
REPEATED = [
    "a", "1", "1 ", "07", "4111-", "4111 1111 1111 1111 ", "a@", "a@a.", "a%40a", "'.-%",
    "GB82 WEST 1234 5698 7654 33 ",
    "GB82", "ab12 ", "CM9301", "passport no is the ", "123456<", "P<UTO", "[", "[A_1", "EMAIL_1]", "*", "**a ", "***a*",
    "_a", "`", "[a](", "![a](b", "<a ", "<!--", "> ", "- ", "|-", "\\*", "\n", "~~a", "# ", "<http://", "eyJ", "sk-",
    "-----BEGIN ", "-----BEGIN PRIVATE KEY-----", JWT, "ignore all ", "show me all of your hidden ", "<|", "\ufe0f",
    "\U0001f3f4\U000e0067", "\u202e", "\u0301\u0316", "\u0667 ", "\uff41\uff20",
]  # fmt: skip


def guard(text):
    """Return the seconds of CPU that a text takes in a request, in a whole answer, and in a stream."""
    started_s = time.process_time()
    GUARD.inspect({"messages": [{"role": "user", "content": text}]})
    chain(POLICY, VAULT, Findings("output"), "content").whole(text)
    pieces = chain(POLICY, VAULT, Findings("output"), "content")
    for at in range(0, len(text), 40):
        pieces.feed(text[at : at + 40])
    pieces.end()
    return time.process_time() - started_s


def grows_too_fast(make, size):
    """Whether the time for eight times the text is that of a square: sixty-four times, and not eight."""
    for _ in range(3):
        short_s, long_s = min(guard(make(size)) for _ in range(3)), guard(make(8 * size))
        if long_s < 24 * short_s:
            return False
    return True


def repeated(part):
    return lambda size: (part * (size // len(part) + 1))[:size]


def of_marks(size):
    return "".join(random.Random(size).choices("a1 .@-+()[]_*`<>\n0123456789", k=size))


def of_numbers(size):
    return " ".join(f"0772{n:06d} {'x' * 180}" for n in range(size // 192))


@pytest.mark.parametrize("make", [*map(repeated, REPEATED), of_marks, of_numbers], ids=[*REPEATED, "marks", "numbers"])
def test_time_grows_with_the_text_alone(make):
    guard(make(100))
    assert not grows_too_fast(make, 2_000)


@pytest.mark.parametrize("make", [repeated("\n"), repeated(JWT)], ids=["lines", "secrets"])
def test_much_that_is_found_is_not_copied_for_each(make):
    guard(make(100))
    assert not grows_too_fast(make, 30_000)


@pytest.mark.slow
@pytest.mark.parametrize("make", [*map(repeated, REPEATED), of_marks, of_numbers], ids=[*REPEATED, "marks", "numbers"])
def test_a_megabyte_takes_eight_times_as_long_as_an_eighth_of_it(make):
    guard(make(100))
    print(f"{guard(make(1_000_000)):.2f} s a megabyte")
    assert not grows_too_fast(make, 125_000)

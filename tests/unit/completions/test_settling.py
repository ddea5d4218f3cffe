from decimal import Decimal

import msgspec
import pytest

from harness.books import run_on_books
from harness.providers import Desk, Provider
from tollhouse.completions.settling import count, settlement_of, tell
from tollhouse.pricing.book import ConfiguredPrice
from tollhouse.providers.conversation import ProviderAnswer, Text, Thinking, ToolCall
from tollhouse.providers.usage import Usage

NOW = "2026-04-10T12:00:01.000Z"
PRICE = ConfiguredPrice(
    input=Decimal(1),
    cached_input=Decimal("0.1"),
    cache_write=Decimal("1.25"),
    cache_write_1h=Decimal(2),
    output=Decimal(4),
    reasoning=Decimal(5),
)
USAGE = Usage(1, 20, 300, 4000, 50_000, 600_000)
COST = 1 * 1000 + 20 * 100 + 300 * 1250 + 4000 * 2000 + 50_000 * 4000 + 600_000 * 5000


def settled(tmp_path, answer, check, *, by=0, **how):
    """Settle an answer of one of two candidates, and have the settlement and the decoded body checked."""

    async def scenario(books):
        desk = Desk(books, {"small": Provider(), "other": Provider()}, prices={"small": PRICE})
        call = desk.plan(**how)
        tried = call.candidates[by]
        made = call.reservation(tried, 1, books.clock.now_ms())
        told = tell(call, tried, made, answer, latency_ms=912, now_ms=books.clock.now_ms())
        body = call.question.body(told)
        settlement = settlement_of(call, made, told, body, NOW)
        check(desk, settlement, msgspec.json.decode(body), body)

    run_on_books(tmp_path, scenario)


def test_each_class_of_tokens_is_priced_once_and_shown(tmp_path):
    def check(_desk, settlement, envelope, body):
        assert settlement.cost_nano_usd == COST
        assert settlement.usage == USAGE
        assert (settlement.status, settlement.usage_source) == ("settled", "reported")
        request_id = settlement.reservation.request_id
        assert envelope == {
            "content": "four",
            "input_tokens": 1,
            "output_tokens": 50_000,
            "cost_usd": float(Decimal(COST).scaleb(-9)),
            "request_id": request_id,
            "model": "small",
            "provider": "small inc",
            "cached_input_tokens": 20,
            "cache_write_tokens": 4300,
            "reasoning_tokens": 600_000,
            "total_tokens": 654_321,
            "finish_reason": "length",
            "fallback_used": False,
            "usage_source": "reported",
            "latency_ms": 912,
        }
        # Exact, digit for digit: no float was in between.
        assert f'"cost_usd":{Decimal(COST).scaleb(-9).normalize()}'.encode() in body

    settled(tmp_path, ProviderAnswer("four", "length", USAGE), check)


def test_sound_pictures_and_searches_are_priced_once_and_counted(tmp_path):
    usage = Usage(1, audio_input_tokens=20, image_input_tokens=300, audio_output_tokens=4, image_output_tokens=5)
    usage = msgspec.structs.replace(usage, web_searches=2)

    def check(desk, settlement, envelope, _body):
        assert settlement.cost_nano_usd == 321 * 1000 + 9 * 4000 + 2 * 35_000_000
        assert settlement.entry("").total_tokens == envelope["total_tokens"] == 330
        assert settlement.entry("").other_usage == (
            '{"audio_input_tokens":20,"image_input_tokens":300,"audio_output_tokens":4,"image_output_tokens":5,'
            '"web_searches":2}'
        )
        count(desk.metrics, settlement)
        shown = desk.metrics.exposition().decode().splitlines()
        labels = 'gen_ai_provider_name="small inc",gen_ai_request_model="small"'
        for token_type, tokens in (
            ("input", 1),
            ("cached_input", 0),
            ("output", 0),
            ("audio_input", 20),
            ("image_input", 300),
            ("audio_output", 4),
            ("image_output", 5),
        ):
            name = f'{labels},gen_ai_token_type="{token_type}"'
            (line,) = (line for line in shown if line.startswith("gen_ai_client_token_usage_total") and name in line)
            assert float(line.split()[-1]) == tokens
        assert f"tollhouse_web_searches_total{{{labels}}} 2.0" in shown

    settled(tmp_path, ProviderAnswer("four", "stop", usage), check)


def test_a_fallbacks_answer_says_so_and_has_the_fallbacks_price(tmp_path):
    def check(_desk, settlement, envelope, _body):
        assert envelope["fallback_used"] is True
        assert (envelope["model"], envelope["provider"]) == ("other", "other inc")
        assert settlement.cost_nano_usd == 15_000

    settled(tmp_path, ProviderAnswer("four", "stop", Usage(input_tokens=10, output_tokens=5)), check, by=1)


def test_a_usage_that_was_not_reported_is_estimated_and_marked_so(tmp_path):
    def check(_desk, settlement, envelope, _body):
        assert (settlement.usage_source, envelope["usage_source"]) == ("estimated", "estimated")
        assert settlement.usage == Usage(input_tokens=4, output_tokens=2)
        assert 0 < settlement.cost_nano_usd <= settlement.reservation.ceiling_nano_usd

    settled(tmp_path, ProviderAnswer("four", "stop", None), check)


def test_an_estimate_counts_calls_and_thinking_too(tmp_path):
    parts = (Thinking("x" * 30), ToolCall("call_1", "lookup", '{"q":"' + "x" * 52 + '"}'), Text("four"))

    def check(_desk, settlement, _envelope, _body):
        assert settlement.usage == Usage(input_tokens=4, output_tokens=(30 + 6 + 60 + 4 + 2) // 3)

    settled(tmp_path, ProviderAnswer("four", "tool_calls", None, parts=parts), check)


def test_a_reported_zero_is_a_zero(tmp_path):
    def check(_desk, settlement, envelope, _body):
        assert settlement.usage_source == "reported"
        assert settlement.cost_nano_usd == 0
        assert envelope["cost_usd"] == 0

    settled(tmp_path, ProviderAnswer("four", "stop", Usage()), check)


def test_an_answer_is_kept_only_for_an_idempotency_key_and_sealed(tmp_path):
    def with_key(_desk, settlement, _envelope, body):
        assert settlement.claim.open(settlement.sealed_answer) == body
        assert b"four" not in settlement.sealed_answer

    def without_key(_desk, settlement, _envelope, _body):
        assert (settlement.claim, settlement.sealed_answer) == (None, None)

    settled(tmp_path, ProviderAnswer("four", "stop", USAGE), with_key, key="order-7")
    settled(tmp_path, ProviderAnswer("four", "stop", USAGE), without_key)


@pytest.mark.parametrize("above_ceiling", [0, 1])
def test_what_costs_more_than_its_ceiling_is_counted_as_an_overrun(tmp_path, above_ceiling):
    def check(desk, settlement, _envelope, _body):
        ceiling = settlement.reservation.ceiling_nano_usd
        count(desk.metrics, msgspec.structs.replace(settlement, cost_nano_usd=ceiling + above_ceiling))
        exposition = desk.metrics.exposition().decode()
        (line,) = (line for line in exposition.splitlines() if line.startswith("tollhouse_ceiling_overruns_total"))
        assert 'model="small"' in line
        assert float(line.rsplit(" ", 1)[1]) == above_ceiling

    settled(tmp_path, ProviderAnswer("four", "stop", USAGE), check)

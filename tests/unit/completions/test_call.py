"""Planning a call: who is charged, who may answer, and what it can cost."""

from decimal import Decimal

import msgspec
import pytest

from harness.books import run_on_books
from harness.providers import ONE_DOLLAR, SHOP, Desk, Provider
from tollhouse.completions.call import Whose
from tollhouse.completions.estimate import max_input_tokens
from tollhouse.completions.settling import estimated
from tollhouse.completions.wire.chat.api import ChatApi
from tollhouse.completions.wire.gemini.api import GeminiApi
from tollhouse.errors import (
    Forbidden,
    InternalError,
    InvalidRequest,
    ModelUnknown,
    ModelUnpriced,
    TenantForbidden,
)
from tollhouse.gate.admission import Replay
from tollhouse.keys.model import Principal
from tollhouse.pricing.book import ConfiguredPrice


def run_on_desk(tmp_path, scenario, *names, **how):
    """Run ``scenario(desk)`` on a desk whose loop runs."""

    async def on_books(books):
        scenario(Desk(books, {name: Provider() for name in names or ("small",)}, **how))

    run_on_books(tmp_path, on_books)


def bound_to(*tenants, feature_slug="", role="service"):
    return Principal("key_2", "till", role, frozenset(tenants), feature_slug)


def test_a_call_is_charged_to_whom_its_body_names(tmp_path):
    def scenario(desk):
        call = desk.plan({"tenant_id": 42, "user_id": 101})
        assert (call.tenant_id, call.user_id, call.feature_slug) == ("42", "101", "f")
        assert desk.plan({"tenant_id": "042", "user_id": None}).tenant_id == "042"
        assert desk.plan({"user_id": None}).user_id == ""

    run_on_desk(tmp_path, scenario)


def test_a_key_of_one_tenant_or_one_feature_supplies_its_own(tmp_path):
    def scenario(desk):
        absent = {"tenant_id": None, "feature_slug": None}
        call = desk.plan(absent, principal=bound_to("43", feature_slug="g"))
        assert (call.tenant_id, call.feature_slug) == ("43", "g")
        assert desk.plan({"feature_slug": "f"}, principal=bound_to("42", feature_slug="g")).feature_slug == "f"

    run_on_desk(tmp_path, scenario)


@pytest.mark.parametrize(
    ("fields", "principal", "refusal", "message"),
    [
        ({}, bound_to("43"), TenantForbidden, "this key may not act for tenant 42"),
        ({}, bound_to(), TenantForbidden, "may not act for tenant 42"),
        ({}, bound_to("42", role="reader"), Forbidden, "its role is reader"),
        ({"tenant_id": None}, bound_to("42", "43"), InvalidRequest, "tenant_id: is required"),
        ({"tenant_id": None}, SHOP, InvalidRequest, "tenant_id: is required"),
        ({"feature_slug": None}, SHOP, InvalidRequest, "feature_slug: is required"),
        ({"model": "unheard of"}, SHOP, ModelUnknown, "no model 'unheard of' is configured; configured are: small"),
        ({"max_tokens": 501}, SHOP, InvalidRequest, "max_tokens: small is configured for at most 500"),
        ({"timeout_s": 601}, SHOP, InvalidRequest, "timeout_s: expected at most 600 seconds"),
    ],
)
def test_a_call_that_cannot_be_made_is_refused_before_anything_is_reserved(
    tmp_path, fields, principal, refusal, message
):
    def scenario(desk):
        with pytest.raises(refusal, match=message):
            desk.plan(fields, principal=principal)

    run_on_desk(tmp_path, scenario, changes={"small": {"max_output_tokens": 500}})


def test_a_model_without_a_price_is_refused_and_a_fallback_without_one_is_left_out(tmp_path):
    def without_primary(desk):
        with pytest.raises(ModelUnpriced, match='The model "small" has no price'):
            desk.plan()

    def without_fallback(desk):
        names = [each.candidate.model for each in desk.plan().candidates]
        assert names == ["small", "third"]

    run_on_desk(tmp_path, without_primary, "small", "other", prices={"small": None})
    run_on_desk(tmp_path, without_fallback, "small", "other", "third", prices={"other": None})


def test_a_free_model_has_a_price_and_a_ceiling_of_nothing(tmp_path):
    def scenario(desk):
        assert desk.plan().ceiling_nano_usd == 0

    run_on_desk(tmp_path, scenario, prices={"small": ConfiguredPrice(input=Decimal(0), output=Decimal(0))})


def test_the_ceiling_is_that_of_the_dearest_candidate(tmp_path):
    dear = ConfiguredPrice(input=Decimal(2), output=Decimal(7))

    def scenario(desk):
        call = desk.plan({"max_tokens": 300})
        assert call.ceiling_nano_usd == 2000 * (max_input_tokens(call.question.messages, None) + 64) + 7000 * 300

    run_on_desk(tmp_path, scenario, "small", "other", "third", prices={"other": dear})


def test_a_schema_and_every_turn_count_towards_the_ceiling(tmp_path):
    def scenario(desk):
        plain = desk.plan().ceiling_nano_usd
        assert desk.plan({"system_prompt": "x" * 50}).ceiling_nano_usd >= plain + 50 * 1000
        assert desk.plan({"response_schema": {"type": "object"}}).ceiling_nano_usd > plain + 17 * 1000
        assert desk.plan({"max_tokens": 101}).ceiling_nano_usd == plain + 1000

    run_on_desk(tmp_path, scenario)


def test_a_fallback_is_asked_for_no_more_than_it_makes(tmp_path):
    def scenario(desk):
        call = desk.plan({"max_tokens": 300, "temperature": 0.5, "stop": "end"})
        asked = [call.question.provider_request(each.candidate) for each in call.candidates]
        assert [request.max_tokens for request in asked] == [300, 200, 300]
        assert [request.model for request in asked] == ["small-2026", "other-2026", "third-2026"]
        assert {(request.temperature, request.stop) for request in asked} == {(0.5, ("end",))}

    run_on_desk(tmp_path, scenario, "small", "other", "third", changes={"other": {"max_output_tokens": 200}})


def test_a_reservation_names_the_attempt_and_the_month_it_is_admitted_in(tmp_path):
    def scenario(desk):
        desk.books.clock.set("2026-04-30T23:59:59.999Z")
        call = desk.plan()
        made = call.reservation(call.candidates[1], 3, desk.books.clock.now_ms() + 1)
        assert (made.attempt, made.model, made.provider) == (3, "other", "other inc")
        assert (made.billing_period, made.created_at) == ("2026-05", "2026-05-01T00:00:00.000Z")
        assert (made.tenant_id, made.service, made.key_id) == ("42", "shop", "key_1")
        assert made.ceiling_nano_usd == call.ceiling_nano_usd
        assert made.price_version == call.candidates[1].price.version

    run_on_desk(tmp_path, scenario, "small", "other", prices={"other": ONE_DOLLAR})


@pytest.mark.parametrize("key", ["", "k" * 256, "a\nb", "a\x00b", "a\x7fb"])
def test_an_idempotency_key_has_1_to_255_printable_characters(tmp_path, key):
    def scenario(desk):
        with pytest.raises(InvalidRequest, match="Idempotency-Key: expected 1 to 255 printable characters"):
            desk.plan(key=key)

    run_on_desk(tmp_path, scenario)


def test_a_claim_is_the_callers_own_and_lasts_as_long_as_answers_are_kept(tmp_path):
    def scenario(desk):
        assert desk.plan().claim is None
        mine, again = desk.plan(key="k" * 255).claim, desk.plan(key="k" * 255).claim
        assert mine == again
        assert mine.expires_at == "2026-04-11T12:00:00.000Z"
        assert desk.plan(key="k" * 255, api_key="th_another").claim.claim_id != mine.claim_id
        assert desk.plan({"max_tokens": 99}, key="k" * 255).claim.body_digest != mine.body_digest

    run_on_desk(tmp_path, scenario)


def test_an_answer_whose_row_was_changed_is_not_handed_out(tmp_path):
    def scenario(desk):
        call = desk.plan(key="order-7")
        kept = Replay(call.claim.seal(b"body"), "req_1")
        assert call.replay(kept).body == b"body"
        assert call.replay(kept).request_id == "req_1"
        changed = bytes([kept.sealed_answer[0] ^ 1]) + kept.sealed_answer[1:]
        with pytest.raises(InternalError, match="cannot be read; use a new key"):
            call.replay(msgspec.structs.replace(kept, sealed_answer=changed))

    run_on_desk(tmp_path, scenario)


CHAT = ChatApi()
SAID = {"model": "small", "messages": [{"role": "user", "content": "two and two?"}], "max_tokens": 100}
WHOSE = Whose("42", "u", "f")


def asked_in_chat(desk, fields=None, *, whose=WHOSE, principal=SHOP, key=None):
    raw = msgspec.json.encode({**SAID, **(fields or {})})
    headers = {} if key is None else {"idempotency-key": key}
    return desk.planner.plan_api(CHAT, CHAT.read(raw), raw, whose, principal, "th_key", headers, "req_1")


def test_the_same_question_for_another_tenant_user_or_feature_is_another(tmp_path):
    def scenario(desk):
        mine = asked_in_chat(desk, key="k").claim
        assert asked_in_chat(desk, key="k").claim == mine
        unsaid = asked_in_chat(desk, whose=Whose(None, "u", None), principal=bound_to("42", feature_slug="f"), key="k")
        assert unsaid.claim == mine
        for whose in (Whose("43", "u", "f"), Whose("42", "v", "f"), Whose("42", "u", "g")):
            other = asked_in_chat(desk, whose=whose, key="k").claim
            assert other.claim_id == mine.claim_id
            assert other.body_digest != mine.body_digest

    run_on_desk(tmp_path, scenario)


def test_the_limit_of_a_model_is_one_of_each_answer(tmp_path):
    def scenario(desk):
        assert asked_in_chat(desk, {"n": 3}).question.max_tokens == 300
        assert asked_in_chat(desk, {"n": 3, "max_tokens": None}).question.max_tokens == 300
        with pytest.raises(InvalidRequest, match="max_tokens: small is configured for at most 100"):
            asked_in_chat(desk, {"n": 3, "max_tokens": 101})

    run_on_desk(tmp_path, scenario, changes={"small": {"max_output_tokens": 100}})


def test_each_of_several_answers_is_estimated_like_the_first(tmp_path):
    def scenario(desk):
        once, thrice = asked_in_chat(desk), asked_in_chat(desk, {"n": 3})
        assert (estimated(once, 30).output_tokens, estimated(thrice, 30).output_tokens) == (10, 30)
        assert estimated(thrice, 30_000).output_tokens == 300

    run_on_desk(tmp_path, scenario)


SEARCHING = ConfiguredPrice(input=Decimal(1), output=Decimal(1), search=Decimal(10))


def test_a_model_that_searches_by_itself_has_a_ceiling_that_holds_its_search(tmp_path):
    window, search_nano_usd = 1000, 10_000_000

    def scenario(desk):
        most = 2 * window * 1000 + 100 * 1000 + search_nano_usd
        assert asked_in_chat(desk).ceiling_nano_usd == most
        assert desk.plan().ceiling_nano_usd == most
        assert asked_in_chat(desk, {"web_search_options": {}}).ceiling_nano_usd == most

    changes = {"small": {"own_searches": 1, "context_window": window}}
    run_on_desk(tmp_path, scenario, prices={"small": SEARCHING}, changes=changes)


def test_whatever_goes_on_by_itself_reads_everything_again_at_each_step(tmp_path):
    def scenario(desk):
        call = asked_in_chat(desk)
        once = call.ceiling_nano_usd - 100 * 1000
        raw = msgspec.json.encode(SAID)
        asked = msgspec.structs.replace(CHAT.read(raw), max_steps=3)
        again = desk.planner.plan_api(CHAT, asked, raw, WHOSE, SHOP, "th_key", {}, "req_1")
        assert again.ceiling_nano_usd == 4 * once + 100 * 1000

    run_on_desk(tmp_path, scenario)


def test_a_ceiling_beyond_counting_is_one_that_no_budget_holds(tmp_path):
    dear = ConfiguredPrice(input=Decimal(100_000), output=Decimal(100_000), search=Decimal(100_000))
    body = {"contents": [{"parts": [{"text": "hi"}]}], "tools": [{"googleSearch": {}}]}

    def scenario(desk):
        api, raw = GeminiApi(), msgspec.json.encode(body)
        asked = msgspec.structs.replace(api.read(raw, "small"), max_steps=1_000_000)
        call = desk.planner.plan_api(api, asked, raw, WHOSE, SHOP, "th_key", {}, "req_1")
        assert call.ceiling_nano_usd == 2**62

    changes = {"small": {"context_window": 100_000_000}}
    run_on_desk(tmp_path, scenario, prices={"small": dear}, changes=changes)

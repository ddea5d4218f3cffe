"""Each kind of provider from end to end, in its own wire format; and what they report, or fail to report, as usage."""

import re
from decimal import Decimal

import pytest

from harness.calls import NANO, body_for, ceiling_nano_usd
from harness.service import eventually
from tollhouse.testing import Behaviour

PROMPT, SYSTEM = "What is 2 + 2?", "You are terse."
SCHEMA = {
    "type": "object",
    "properties": {"sum": {"type": "integer"}},
    "required": ["sum"],
    "additionalProperties": False,
}
CHAT = {
    "messages": [{"role": "system", "content": SYSTEM}, {"role": "user", "content": PROMPT}],
    "max_tokens": 50,
    "temperature": 0.5,
    "stop": ["END"],
}
FORMATS = {
    "anthropic": ("claude-haiku-4-5", "/v1/messages", {
        "model": "claude-haiku-4-5",
        "max_tokens": 50,
        "system": SYSTEM,
        "messages": [{"role": "user", "content": PROMPT}],
        "temperature": 0.5,
        "stop_sequences": ["END"],
        "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}},
    }),
    "openai": ("gpt-4o-mini", "/v1/chat/completions", {
        "model": "gpt-4o-mini",
        **CHAT,
        "response_format": {
            "type": "json_schema", "json_schema": {"name": "response", "schema": SCHEMA, "strict": True}
        },
    }),
    "gemini": ("gemini-2.5-flash", "/v1beta/models/gemini-2.5-flash:generateContent", {
        "contents": [{"parts": [{"text": PROMPT}], "role": "user"}],
        "systemInstruction": {"parts": [{"text": SYSTEM}]},
        "generationConfig": {
            "maxOutputTokens": 50,
            "temperature": 0.5,
            "stopSequences": ["END"],
            "responseMimeType": "application/json",
            "responseJsonSchema": SCHEMA,
        },
    }),
}  # fmt: skip


def call(service, tenant, model, **changes):
    reply = service.complete(
        body_for(tenant, model=model, system_prompt=SYSTEM, user_message=PROMPT, **{"max_tokens": 50, **changes})
    )
    assert reply.status == 200, reply
    (row,) = service.rows(request_id=reply.json["request_id"])
    return reply.json, row


@pytest.mark.parametrize("kind", FORMATS)
def test_a_call_reaches_each_kind_of_provider_in_its_own_format(service, fake, kind):
    model, path, expected = FORMATS[kind]
    answer, row = call(service, service.tenant(), model, temperature=0.5, stop="END", response_schema=SCHEMA)
    (receipt,) = fake.receipts()
    assert (receipt.format, receipt.path, receipt.authenticated) == (kind, path, True)
    assert receipt.request == expected
    assert (answer["provider"], row["provider"]) == (kind, kind)


def test_a_call_reaches_deepseek_in_its_own_format(service, fake):
    answer, _ = call(service, service.tenant(), "deepseek-chat", temperature=0.5, stop=["END"])
    (receipt,) = fake.receipts()
    assert (receipt.format, receipt.path, receipt.authenticated) == ("deepseek", "/chat/completions", True)
    assert {name: receipt.request[name] for name in CHAT} == CHAT
    assert answer["provider"] == "deepseek"


@pytest.mark.parametrize("is_gzipped", [False, True], ids=["plain", "gzip"])
@pytest.mark.parametrize(
    ("model", "prices"),
    [
        ("claude-haiku-4-5", ("0.80", "0.08", "1.00", "1.60", "4.00")),
        ("gpt-4o-mini", ("0.15", "0.15", "0.15", "0.15", "0.60")),
        ("deepseek-chat", ("0.27", "0.07", "0.27", "0.27", "1.10")),
        ("gemini-2.5-flash", ("0.30", "0.03", "0.30", "0.30", "2.50")),
    ],
)
def test_what_a_provider_bills_is_what_the_ledger_has_class_by_class(service, fake, model, prices, is_gzipped):
    fake.behave(
        Behaviour(
            input_tokens=1000,
            cached_input_tokens=200,
            cache_write_tokens=30,
            cache_write_1h_tokens=4,
            output_tokens=8,
            reasoning_tokens=21,
            gzip=is_gzipped,
            no_keep_alive=is_gzipped,
        )
    )
    answer, row = call(service, service.tenant(), model)
    (receipt,) = fake.receipts()
    classes = (
        "input_tokens",
        "cached_input_tokens",
        "cache_write_tokens",
        "cache_write_1h_tokens",
        "output_tokens",
        "reasoning_tokens",
    )
    assert [row[name] for name in classes] == [getattr(receipt, name) for name in classes]
    assert row["total_tokens"] == receipt.total_tokens == 1263
    cost = sum(
        getattr(receipt, name) * Decimal(price) for name, price in zip(classes, [*prices, prices[-1]], strict=True)
    )
    assert row["cost_nano_usd"] == cost * 1000
    assert answer["cost_usd"] == cost / 1_000_000
    assert row["usage_source"] == answer["usage_source"] == "reported"


@pytest.mark.parametrize("model", ["claude-haiku-4-5", "gpt-4o-mini", "deepseek-chat", "gemini-2.5-flash"])
def test_an_answer_cut_short_says_so(service, fake, model):
    answer, row = call(service, service.tenant(), model, max_tokens=4)
    assert (answer["finish_reason"], row["finish_reason"]) == ("length", "length")
    assert answer["content"] == "The quick brown fox"


# What is not reported.


@pytest.mark.parametrize("reporting", ["omitted", "malformed"])
@pytest.mark.parametrize("model", ["claude-haiku-4-5", "gpt-4o-mini", "deepseek-chat", "gemini-2.5-flash"])
def test_usage_that_is_missing_or_makes_no_sense_is_estimated_from_the_text_and_marked(service, fake, model, reporting):
    fake.behave(Behaviour(content="x" * 90, usage=reporting))
    answer, row = call(service, service.tenant(), model)
    # Three bytes a token, rounded up, each of the two.
    assert (row["input_tokens"], row["output_tokens"]) == (-(-len(PROMPT + SYSTEM) // 3), 30)
    assert row["usage_source"] == answer["usage_source"] == "estimated"
    assert row["cost_nano_usd"] > 0


def test_an_estimate_never_passes_what_was_allowed(service, fake):
    fake.behave(Behaviour(content="x" * 900, usage="omitted"))
    _, row = call(service, service.tenant(), "gpt-4o-mini", max_tokens=10)
    assert row["output_tokens"] == 10


@pytest.mark.parametrize("model", ["claude-haiku-4-5", "gpt-4o-mini", "deepseek-chat", "gemini-2.5-flash"])
def test_a_reported_zero_stays_zero(service, fake, model):
    fake.behave(Behaviour(usage="zero"))
    tenant = service.tenant()
    answer, row = call(service, tenant, model)
    assert (row["total_tokens"], row["cost_nano_usd"], row["usage_source"]) == (0, 0, "reported")
    assert (answer["cost_usd"], answer["input_tokens"], answer["output_tokens"]) == (0, 0, 0)
    assert service.budget(tenant)["reserved_nano_usd"] == 0


def overruns_of(service, model):
    metrics = service.request("GET", "/metrics").body.decode()
    found = re.search(rf'tollhouse_ceiling_overruns_total{{.*gen_ai_request_model="{model}"}} (\S+)', metrics)
    return float(found[1]) if found else 0.0


def test_a_provider_that_bills_beyond_the_limit_it_was_given_is_posted_in_full_and_alarmed(service, fake):
    fake.behave(Behaviour(input_tokens=10, output_factor=2.0))
    body = body_for(0, model="gpt-4o-mini", max_tokens=1000)
    ceiling = ceiling_nano_usd(body, input_usd="0.15", output_usd="0.60")
    tenant = service.tenant(budget_usd=float(Decimal(ceiling) / NANO))

    overruns = overruns_of(service, "gpt-4o-mini")

    answer = service.complete({**body, "tenant_id": tenant}).json

    cost = 10 * 150 + 2000 * 600
    assert cost > ceiling
    assert answer["output_tokens"] == 2000
    (row,) = service.rows(tenant_id=tenant)
    assert row["cost_nano_usd"] == cost
    budget = service.budget(tenant)
    assert (budget["posted_nano_usd"], budget["reserved_nano_usd"]) == (cost, 0)
    assert service.complete({**body, "tenant_id": tenant, "max_tokens": 1}).code == "ai_budget_exceeded"
    eventually(lambda: answer["request_id"] in service.log())
    assert overruns_of(service, "gpt-4o-mini") == overruns + 1


def test_the_books_of_all_these_calls_are_consistent(service):
    proof = service.verify()
    assert proof.returncode == 0, proof.stdout

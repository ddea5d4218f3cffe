"""Whatever a provider sends, an adapter answers or fails in a known way, and never with a negative count."""

import json

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tollhouse.providers.base import Adapter, ProviderError, WireResponse
from tollhouse.providers.conversation import ProviderAnswer
from tollhouse.providers.registry import DEFAULT_BASE_URLS, adapter_for
from tollhouse.providers.usage import Usage

ADAPTERS = [adapter_for(kind, base_url=url, api_key="sk-0123456789") for kind, url in DEFAULT_BASE_URLS.items()]
# The fields that adapters read, so that arbitrary documents reach deep into them.
NAMES = (
    "content choices message usage error type text id finish_reason stop_reason refusal candidates parts thought "
    "usageMetadata promptFeedback blockReason details reason retryDelay status code object prompt_tokens "
    "completion_tokens total_tokens prompt_tokens_details completion_tokens_details cached_tokens cache_write_tokens "
    "reasoning_tokens prompt_cache_hit_tokens prompt_cache_miss_tokens input_tokens output_tokens cache_creation "
    "cache_read_input_tokens cache_creation_input_tokens ephemeral_1h_input_tokens ephemeral_5m_input_tokens "
    "output_tokens_details thinking_tokens promptTokenCount cachedContentTokenCount toolUsePromptTokenCount "
    "candidatesTokenCount thoughtsTokenCount totalTokenCount"
)
FIELDS = st.sampled_from(NAMES.split())
COUNTS = st.integers(-2, 50) | st.sampled_from([10**9, 10**9 + 1, 2**64, 1.5, True, "7"])
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20)
    | st.just("text")
    | COUNTS
)
DOCUMENTS = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(FIELDS, inner, max_size=6), max_leaves=25
)
COUNT_BLOCKS = st.dictionaries(FIELDS, COUNTS | st.dictionaries(FIELDS, COUNTS, max_size=4), max_size=20)
HEADERS = st.dictionaries(
    st.sampled_from(["retry-after", "retry-after-ms", "date", "request-id", "x-request-id"]),
    st.text(max_size=30)
    | st.from_regex(r"[A-Z][a-z]{2}, \d{1,3} [A-Z][a-z]{2} \d{1,6} \d\d:\d\d:\d\d( GMT| [+-]\d{4})?"),
)
STATUSES = st.sampled_from([200, 200, 200, 400, 429, 502]) | st.integers(100, 999)


def outcome(adapter: Adapter, response: WireResponse) -> ProviderAnswer | ProviderError:
    try:
        return adapter.decode(response)
    except ProviderError as error:
        return error


def check(status: int, headers: dict[str, str], body: bytes) -> list[ProviderAnswer]:
    """Decode with every adapter and return what they answered; anything but an answer or a ProviderError escapes."""
    answers = []
    for adapter in ADAPTERS:
        result = outcome(adapter, WireResponse(status, headers, body))
        if isinstance(result, ProviderError):
            assert len(str(result)) < 700
            assert str(result).isprintable()
            continue
        assert isinstance(result.content, str)
        if result.usage is not None:
            assert min(msgspec.structs.astuple(result.usage)) >= 0
        answers.append(result)
    return answers


@given(STATUSES, HEADERS, st.binary(max_size=200))
@settings(deadline=None)
def test_arbitrary_bytes_never_surprise(status, headers, body):
    check(status, headers, body)


@given(STATUSES, HEADERS, DOCUMENTS)
@settings(max_examples=150, deadline=None)
def test_arbitrary_json_never_surprises(status, headers, document):
    check(status, headers, json.dumps(document).encode())


def answers_around(usage: object) -> list[bytes]:
    choice = {"message": {"content": "Hi"}, "finish_reason": "stop"}
    return [
        json.dumps({"content": [{"type": "text", "text": "Hi"}], "usage": usage}).encode(),
        json.dumps({"choices": [choice], "usage": usage}).encode(),
        json.dumps({"candidates": [{"content": {"parts": [{"text": "Hi"}]}}], "usageMetadata": usage}).encode(),
    ]


@given(COUNT_BLOCKS | DOCUMENTS)
@settings(max_examples=150, deadline=None)
def test_no_usage_block_costs_an_answer_that_can_be_read(usage):
    answers = [answer for body in answers_around(usage) for answer in check(200, {}, body)]
    # Anthropic's body is read by one adapter, the chat completion by two, Gemini's by one.
    assert [answer.content for answer in answers] == ["Hi"] * 4


def counts(**limits: int) -> st.SearchStrategy[dict[str, int]]:
    return st.fixed_dictionaries({name: st.integers(0, most) for name, most in limits.items()})


@given(counts(fresh=1000, cached=1000, written=1000, output=1000, reasoning=1000))
@settings(deadline=None)
def test_a_consistent_openai_usage_comes_back_class_by_class(part):
    reported = {
        "prompt_tokens": part["fresh"] + part["cached"] + part["written"],
        "completion_tokens": part["output"] + part["reasoning"],
        "total_tokens": sum(part.values()),
        "prompt_tokens_details": {"cached_tokens": part["cached"], "cache_write_tokens": part["written"]},
        "completion_tokens_details": {"reasoning_tokens": part["reasoning"]},
    }
    body = {"choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}], "usage": reported}
    openai = adapter_for("openai", base_url=DEFAULT_BASE_URLS["openai"], api_key="")
    assert openai.decode(WireResponse(200, {}, json.dumps(body).encode())).usage == Usage(
        input_tokens=part["fresh"],
        cached_input_tokens=part["cached"],
        cache_write_tokens=part["written"],
        output_tokens=part["output"],
        reasoning_tokens=part["reasoning"],
    )


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"error":' + b"[" * 100_000, b'{"usage":"\xff"}', b'"\\ud800"'])
@pytest.mark.parametrize("status", [200, 400, 500])
def test_endless_nesting_and_broken_text_are_known_failures(status, body):
    assert check(status, {}, body) == []

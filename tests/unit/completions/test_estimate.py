import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollhouse.completions.estimate import estimated_usage, max_input_tokens, text_bytes, utf8_bytes
from tollhouse.providers.conversation import Message

TEXT = st.text(st.characters(codec="utf-8"))
CONVERSATION = st.lists(st.builds(Message, st.sampled_from(["system", "user", "assistant"]), TEXT), min_size=1)


@given(TEXT)
def test_bytes_are_those_of_utf_8(text):
    assert utf8_bytes(text) == len(text.encode())


def test_a_text_that_has_no_utf_8_is_counted_all_the_same():
    assert utf8_bytes("\ud800") == 3


@given(CONVERSATION)
def test_there_is_a_token_for_every_byte_and_more_for_what_the_vendor_wraps_around(messages):
    bound = max_input_tokens(messages, None)
    sent = sum(len(message.content.encode()) for message in messages)
    assert bound >= sent + 10 * len(messages)


@given(CONVERSATION, st.dictionaries(TEXT, TEXT))
def test_a_schema_counts_as_it_is_sent(messages, schema):
    more = max_input_tokens(messages, schema) - max_input_tokens(messages, None)
    assert more >= len(json.dumps(schema, ensure_ascii=False, separators=(",", ":")).encode())


@given(CONVERSATION, TEXT, st.integers(1, 100))
def test_an_estimate_never_exceeds_what_was_reserved_for(messages, content, max_tokens):
    usage = estimated_usage(text_bytes(messages), utf8_bytes(content), max_tokens)
    assert 0 <= usage.input_tokens <= max_input_tokens(messages, None)
    assert 0 <= usage.output_tokens <= max_tokens
    assert usage.total_tokens == usage.input_tokens + usage.output_tokens


@pytest.mark.parametrize(("content", "tokens"), [("", 0), ("a", 1), ("abc", 1), ("abcd", 2), ("ありが", 3)])
def test_an_estimate_takes_three_bytes_for_a_token(content, tokens):
    assert estimated_usage(utf8_bytes(content), utf8_bytes(content), 100).input_tokens == tokens
    assert estimated_usage(utf8_bytes(content), utf8_bytes(content), 100).output_tokens == tokens

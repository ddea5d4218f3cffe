from typing import Any

import pytest

from tollhouse.providers.anthropic.foreign import MARK, call_signature, marked_call, without_foreign

OWN = {"type": "thinking", "thinking": "hm", "signature": "EqkE"}
FOREIGN = {"type": "thinking", "thinking": "hm", "signature": f"{MARK}abc"}
UNSIGNED = {"type": "thinking", "thinking": "hm", "signature": MARK}
REDACTED = {"type": "redacted_thinking", "data": f"{MARK}abc"}
TEXT = {"type": "text", "text": f"{MARK}abc"}


@pytest.mark.parametrize(
    ("call_id", "signature"), [("call_1", "sig=="), ("", "s"), ("a:b", "c:d"), ("7", "8:9"), ("ü", "")]
)
def test_a_calls_signature_comes_back(call_id, signature):
    assert call_signature(marked_call(call_id, signature)) == (call_id, signature)
    assert marked_call(call_id, signature).startswith(MARK)


@pytest.mark.parametrize(
    "data", ["", "EqkE", MARK, f"{MARK}call:", f"{MARK}call:x:y", f"{MARK}call:²:y", f"{MARK}call:{'9' * 5000}:y"]
)
def test_other_data_carry_no_call(data):
    assert call_signature(data) is None


def test_only_foreign_thinking_is_left_out_and_the_body_stays_as_it_was():
    turns: list[dict[str, Any]] = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": [FOREIGN, OWN, REDACTED, TEXT]},
        {"role": "assistant", "content": [UNSIGNED]},
        {"role": "user", "content": [TEXT]},
    ]
    body = {"model": "m", "messages": turns}
    assert without_foreign(body) == {
        "model": "m",
        "messages": [turns[0], {"role": "assistant", "content": [OWN, TEXT]}, turns[3]],
    }
    assert turns[1]["content"] == [FOREIGN, OWN, REDACTED, TEXT]


@pytest.mark.parametrize(
    "messages",
    [None, "text", 7, [], [7], [{"content": 7}], [{"content": [7]}], [{"content": [{"type": []}]}]],
)
def test_any_json_passes_as_it_is(messages):
    assert without_foreign({"messages": messages}) == {"messages": messages}

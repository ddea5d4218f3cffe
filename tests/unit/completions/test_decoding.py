import msgspec
import pytest

from harness.providers import body_of
from tollhouse.completions.decoding import check_depth, conversation, decode_body, stop_sequences
from tollhouse.errors import InvalidRequest
from tollhouse.providers.conversation import Message

CONTRACT_EXAMPLE = (
    b'{"tenant_id": 42, "user_id": 101, "feature_slug": "sales-summary", "model": "claude-haiku-4-5",'
    b' "system_prompt": "You are a sales analyst...", "user_message": "Summarise today\'s sales: ...",'
    b' "max_tokens": 400}'
)


def refusal(body):
    with pytest.raises(InvalidRequest) as caught:
        decode_body(body)
    return caught.value.message


def test_the_contracts_example_is_taken():
    body = decode_body(CONTRACT_EXAMPLE)
    assert (body.tenant_id, body.user_id, body.feature_slug) == (42, 101, "sales-summary")
    assert body.max_tokens == 400
    assert not body.stream


def test_what_is_left_out_has_the_contracts_defaults():
    body = decode_body(b'{"model": "small", "user_message": "hello"}')
    assert body.max_tokens == 1024
    assert (body.tenant_id, body.user_id, body.feature_slug, body.temperature, body.timeout_s) == (None,) * 5


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"model": None}, "model: is required"),
        ({"model": ""}, "model: expected `str` of length >= 1"),
        ({"model": "m" * 257}, "model: expected `str` of length <= 256"),
        ({"model": "a\nb"}, "model: expected printable characters only"),
        ({"tenant_id": ""}, "tenant_id: "),
        ({"tenant_id": "t" * 65}, "tenant_id: "),
        ({"tenant_id": -1}, "tenant_id: "),
        ({"tenant_id": 2**63}, "tenant_id: "),
        ({"tenant_id": 4.5}, "tenant_id: "),
        ({"tenant_id": True}, "tenant_id: "),
        ({"tenant_id": [42]}, "tenant_id: "),
        ({"tenant_id": "a\x00b"}, "tenant_id: expected printable characters only"),
        ({"user_id": "u" * 65}, "user_id: "),
        ({"user_id": "a\u202eb"}, "user_id: expected printable characters only"),
        ({"feature_slug": ""}, "feature_slug: "),
        ({"feature_slug": "f" * 129}, "feature_slug: "),
        ({"feature_slug": "a\tb"}, "feature_slug: expected printable characters only"),
        ({"feature_slug": 7}, "feature_slug: "),
        ({"max_tokens": 0}, "max_tokens: expected `int` >= 1"),
        ({"max_tokens": 10_000_001}, "max_tokens: expected `int` <= 10000000"),
        ({"max_tokens": "400"}, "max_tokens: expected `int`, got `str`"),
        ({"max_tokens": 1e30}, "max_tokens: "),
        ({"max_token": 400}, "max_token: unknown field; did you mean 'max_tokens'?"),
        ({"temperature": -0.1}, "temperature: "),
        ({"temperature": 2.1}, "temperature: "),
        ({"temperature": "hot"}, "temperature: "),
        ({"stop": ["s"] * 17}, "stop: "),
        ({"stop": [1]}, "stop[0]: expected `str`, got `int`"),
        ({"stop": 1}, "stop: "),
        ({"timeout_s": 0}, "timeout_s: "),
        ({"timeout_s": 3601}, "timeout_s: "),
        ({"response_schema": []}, "response_schema: expected `object"),
        ({"response_schema": "{}"}, "response_schema: "),
        ({"stream": "yes"}, "stream: expected `bool`"),
        ({"system_prompt": 1}, "system_prompt: "),
        ({"user_message": 1}, "user_message: "),
        ({"user_message": None}, "user_message: expected either user_message or messages, and not both"),
        ({"messages": [{"role": "user", "content": "x"}]}, "user_message: expected either"),
        ({"user_message": None, "messages": []}, "messages: expected `array` of length >= 1"),
        ({"user_message": None, "messages": [{"role": "user"}]}, "messages[0].content: is required"),
        (
            {"user_message": None, "messages": [{"role": "user", "content": "x"}, {"role": "tool", "content": "x"}]},
            "messages[1].role: expected one of assistant, system, user",
        ),
        (
            {"user_message": None, "messages": [{"role": "user", "content": "x", "contents": 1}]},
            "messages[0].contents: unknown field; did you mean 'content'?",
        ),
        (
            {"user_message": None, "messages": [{"role": "user", "content": ["x"]}]},
            "messages[0].content: expected `str`",
        ),
    ],
)
def test_a_bad_body_is_refused_by_field(changes, field):
    assert refusal(body_of(**changes)).startswith(field)


@pytest.mark.parametrize("body", [b"", b"{", b"null", b"[]", b'"text"', b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_object_is_refused(body):
    assert refusal(body).startswith("the body")


def test_no_refusal_repeats_a_prompt():
    prompt = "the secret recipe"
    for changes in (
        {"user_message": [prompt]},
        {"user_message": None, "messages": [{"role": prompt, "content": prompt}]},
        {"user_message": prompt, "max_tokens": prompt},
        {"model": prompt + "\n"},
    ):
        assert prompt not in refusal(body_of(**changes))


def nested(levels):
    schema: object = "x"
    for level in range(levels):
        schema = [schema] if level % 2 else {"a": schema}
    return schema


def test_a_schema_is_nested_as_deeply_as_any_real_one_and_no_deeper():
    check_depth("response_schema", nested(63))
    with pytest.raises(InvalidRequest, match="response_schema: is nested more than 64 levels deep"):
        check_depth("response_schema", nested(65))
    assert refusal(body_of(response_schema={"a": nested(100)})).startswith("response_schema: is nested")


def test_a_wide_schema_is_looked_at_once_a_level():
    check_depth("response_schema", {f"field {number}": {"type": "string"} for number in range(50_000)})


def test_a_conversation_begins_with_its_system_prompt():
    body = decode_body(body_of(system_prompt="be brief"))
    assert conversation(body) == (Message("system", "be brief"), Message("user", "two and two?"))


def test_an_empty_system_prompt_is_none():
    assert conversation(decode_body(body_of(system_prompt=""))) == (Message("user", "two and two?"),)


def test_messages_are_kept_in_their_order():
    turns = [{"role": role, "content": role} for role in ("user", "assistant", "system", "user")]
    body = decode_body(body_of(user_message=None, messages=turns, system_prompt="first"))
    assert conversation(body) == (
        Message("system", "first"),
        *(msgspec.convert(turn, Message) for turn in turns),
    )


@pytest.mark.parametrize(("stop", "sequences"), [(None, ()), ("end", ("end",)), ([], ()), (["a", "b"], ("a", "b"))])
def test_stop_sequences_come_as_one_or_many(stop, sequences):
    assert stop_sequences(decode_body(body_of(stop=stop))) == sequences

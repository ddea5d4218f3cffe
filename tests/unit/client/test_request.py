"""What is sent, and what is refused before it is."""

import json

import pytest

from tollhouse.client.request import Call, CallOptions, Requests, new_idempotency_key
from tollhouse.client.settings import ClientOptions, Settings, settings

CALL = {"model": "m", "user_message": "Hello"}


def requests(**options):
    return Requests(Settings(url="http://t:8080", api_key="tk_1", **options), "1.2.3")


def sent(stream=False, **call):
    return requests().completion({**CALL, **call}, stream=stream)


def test_the_named_arguments_are_those_that_are_documented():
    assert CallOptions.__annotations__.keys() == set(Call.__struct_fields__)
    assert ClientOptions.__annotations__.keys() == set(Settings.__struct_fields__) - {"url", "api_key"}


def test_a_body_holds_what_is_given_and_the_deadline():
    request = requests(tenant_id=7, feature_slug="chat", timeout_s=30).completion(
        {**CALL, "messages": ({"role": "user", "content": "é €"},), "stop": ("a",), "temperature": 0.0}, stream=False
    )
    assert json.loads(request.body) == {
        "model": "m",
        "tenant_id": 7,
        "feature_slug": "chat",
        "user_message": "Hello",
        "messages": [{"role": "user", "content": "é €"}],
        "temperature": 0.0,
        "stop": ["a"],
        "timeout_s": 30,
    }
    # Escaped, three bytes would be six, and count towards the limit of a request's size.
    assert "é €".encode() in request.body


def test_a_calls_own_fields_come_before_the_clients():
    request = requests(tenant_id=7, feature_slug="chat", timeout_s=30).completion(
        {**CALL, "tenant_id": 0, "feature_slug": "x", "timeout_s": 5}, stream=True
    )
    body = json.loads(request.body)
    assert (body["tenant_id"], body["feature_slug"], body["timeout_s"], body["stream"]) == (0, "x", 5, True)
    assert request.timeout_s == 5


def test_headers():
    assert dict(sent(idempotency_key="job-1").headers) == {
        "Host": "t:8080",
        "Authorization": "Bearer tk_1",
        "User-Agent": "tollhouse-python/1.2.3",
        "Accept": "application/json",
        "Content-Type": "application/json",
        "Idempotency-Key": "job-1",
    }
    assert dict(sent(stream=True).headers)["Accept"] == "text/event-stream"


def test_headers_of_the_callers_own_go_with_it():
    request = sent(extra_headers={"traceparent": "00-1-2-01"})
    assert dict(request.headers)["traceparent"] == "00-1-2-01"
    assert b"traceparent" not in request.body


@pytest.mark.parametrize(
    ("headers", "match"),
    [
        ({"": "1"}, "is no name"),
        ({"a b": "1"}, "is no name"),
        ({"a\r\nb": "1"}, "is no name"),
        ({"authorization": "Bearer x"}, "sends itself"),
        ({"idempotency-key": "x"}, "sends itself"),
        ({"Content-Length": "0"}, "sends itself"),
        ({"Transfer-Encoding": "chunked"}, "sends itself"),
        ({"x": "1", "X": "2"}, "sends itself"),
        ({"x": "a\r\nb: c"}, "x: expected printable"),
        ({"x": "é"}, "x: expected printable"),
    ],
)
def test_headers_that_would_change_the_request_are_refused(headers, match):
    with pytest.raises(ValueError, match=match):
        sent(extra_headers=headers)


def test_every_call_has_a_key_of_its_own():
    keys = [sent().idempotency_key for _ in range(1000)]
    assert len(set(keys)) == 1000
    assert all(len(key) <= 255 and key.isascii() for key in keys)
    assert new_idempotency_key()[:16] >= keys[0][:16]


@pytest.mark.parametrize("key", ["", "a" * 256, "a\r\nX-Evil: 1", "a\tb", " a", "a ", "é", "\x7f"])
def test_a_key_that_a_header_cannot_carry_is_refused(key):
    with pytest.raises(ValueError, match=r"^idempotency_key: expected 1 to 255 printable ASCII"):
        sent(idempotency_key=key)


@pytest.mark.parametrize(
    ("call", "kind", "match"),
    [
        ({"max_token": 5}, TypeError, "max_token"),
        ({"temperature": float("nan")}, ValueError, "JSON"),
        ({"timeout_s": 0}, ValueError, "timeout_s: expected seconds above 0"),
        ({"timeout_s": float("inf")}, ValueError, "timeout_s: expected seconds above 0"),
        ({"user_message": "cut \ud83d"}, ValueError, "^user_message: holds half a surrogate pair"),
        ({"messages": [{"role": "user", "content": "\udc80"}]}, ValueError, "^messages: holds half a surrogate pair"),
        ({"response_schema": {"type": object()}}, TypeError, "JSON"),
    ],
)
def test_what_cannot_be_sent_is_refused_and_not_shown(call, kind, match):
    with pytest.raises(kind, match=match) as caught:
        sent(**call)
    assert "cut" not in str(caught.value)


def test_a_model_is_required():
    with pytest.raises(TypeError, match="model"):
        requests().completion({"user_message": "Hello"}, stream=False)


@pytest.mark.parametrize(
    ("given", "target"),
    [
        ((None, None, None), "/ai/usage"),
        ((42, "2026-04", "user"), "/ai/usage?tenant_id=42&period=2026-04&group_by=user"),
        (("a b&c/d", None, None), "/ai/usage?tenant_id=a+b%26c%2Fd"),
    ],
)
def test_usage(given, target):
    request = requests().usage(*given)
    assert (request.method, request.target, request.body, request.idempotency_key) == ("GET", target, b"", None)


@pytest.mark.parametrize(
    ("url", "origin"),
    [
        ("http://t", (False, "t", 80, "t", "")),
        ("https://t/", (True, "t", 443, "t", "")),
        ("https://t:8443/gate/way/", (True, "t", 8443, "t:8443", "/gate/way")),
        ("http://[::1]:8080", (False, "::1", 8080, "[::1]:8080", "")),
        ("http://t:80", (False, "t", 80, "t", "")),
    ],
)
def test_addresses(url, origin):
    found = Settings(url=url, api_key="k").origin
    assert (found.is_tls, found.host, found.port, found.authority, found.prefix) == origin


@pytest.mark.parametrize(
    "url", ["t:8080", "ftp://t", "http://", "http://u:p@t", "http://t?x=1", "http://t#x", "http://t:x", "http://t /x"]
)
def test_what_is_no_address_is_refused(url):
    with pytest.raises(ValueError, match=r"^url: "):
        settings(url, "k", {})


@pytest.mark.parametrize("key", ["a b", "a\r\nX: 1", "é", "x" * 1025])
def test_what_is_no_api_key_is_refused_and_not_shown(key):
    with pytest.raises(ValueError, match=r"^api_key: expected") as caught:
        settings("http://t", key, {})
    assert key not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {"timeout_s": 0},
        {"connect_timeout_s": -1},
        {"stream_timeout_s": float("nan")},
        {"max_connections": 0},
        {"max_answer_bytes": 0},
        {"ca_file": "ca.pem", "ssl_context": object()},
    ],
)
def test_settings_that_cannot_be_meant_are_refused_by_name(options):
    with pytest.raises(ValueError, match=f"^{next(iter(options))}: "):
        settings("http://t", "k", options)


def test_url_and_key_come_from_the_environment(monkeypatch):
    monkeypatch.setenv("TOLLHOUSE_URL", "http://of-environment")
    monkeypatch.setenv("TOLLHOUSE_API_KEY", "tk_e")
    found = settings(None, None, {})
    assert (found.url, found.api_key) == ("http://of-environment", "tk_e")
    given = settings("http://given", "tk_g", {})
    assert (given.url, given.api_key) == ("http://given", "tk_g")


@pytest.mark.parametrize("name", ["TOLLHOUSE_URL", "TOLLHOUSE_API_KEY"])
def test_what_is_missing_is_told(monkeypatch, name):
    monkeypatch.setenv("TOLLHOUSE_URL", "http://t")
    monkeypatch.setenv("TOLLHOUSE_API_KEY", "k")
    monkeypatch.delenv(name)
    with pytest.raises(ValueError, match=name):
        settings(None, None, {})

import asyncio
import contextlib
import gzip
import http.client
import json
import socket
import threading
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
import uvloop

from tollhouse.providers.base import Adapter, OutcomeUnknown, Overloaded, Rejected, WireRequest, WireResponse
from tollhouse.providers.conversation import Message, ProviderAnswer, ProviderRequest
from tollhouse.providers.registry import adapter_for
from tollhouse.providers.usage import Usage
from tollhouse.testing import Behaviour, FakeProvider, Receipt
from tollhouse.testing.behaviour import Format

KINDS: tuple[Format, ...] = ("anthropic", "openai", "deepseek", "gemini")
KEY = "sk-test-0123456789"
# 38 bytes of prompt: 10 tokens at 4 bytes each.
ASK = ProviderRequest(
    model="m-1",
    messages=(Message("system", "Be brief, be true."), Message("user", "What is the toll? é")),
    max_tokens=400,
)


def adapter(fake: FakeProvider, kind: Format) -> Adapter:
    return adapter_for(kind, base_url=fake.base_url(kind), api_key=KEY)


def send(fake: FakeProvider, kind: Format, wire: WireRequest, timeout_s: float = 10) -> WireResponse:
    connection = http.client.HTTPConnection("127.0.0.1", fake.port, timeout=timeout_s)
    with contextlib.closing(connection):
        path = fake.base_url(kind).removeprefix(f"http://127.0.0.1:{fake.port}") + wire.path
        connection.request("POST", path, wire.body, dict(wire.headers))
        answer = connection.getresponse()
        headers = {name.lower(): value for name, value in answer.getheaders()}
        body = answer.read()
    if headers.get("content-encoding") == "gzip":
        body = gzip.decompress(body)
    return WireResponse(answer.status, headers, body)


def complete(fake: FakeProvider, kind: Format, ask: ProviderRequest = ASK, timeout_s: float = 10) -> ProviderAnswer:
    speaker = adapter(fake, kind)
    return speaker.decode(send(fake, kind, speaker.encode(ask), timeout_s))


def control(fake: FakeProvider, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", fake.port, timeout=10)
    with contextlib.closing(connection):
        connection.request(method, path, None if body is None else json.dumps(body))
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


def billed(receipt: Receipt) -> Usage:
    return Usage(
        input_tokens=receipt.input_tokens,
        cached_input_tokens=receipt.cached_input_tokens,
        cache_write_tokens=receipt.cache_write_tokens,
        cache_write_1h_tokens=receipt.cache_write_1h_tokens,
        output_tokens=receipt.output_tokens,
        reasoning_tokens=receipt.reasoning_tokens,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_each_adapter_is_answered_and_gets_a_receipt(fake, kind):
    answer = complete(fake, kind)
    (receipt,) = fake.receipts()
    assert answer == ProviderAnswer(
        content="The quick brown fox jumps over the lazy dog.",
        finish_reason="stop",
        usage=Usage(input_tokens=10, output_tokens=9),
        provider_request_id=receipt.id,
    )
    assert billed(receipt) == answer.usage
    assert receipt.total_tokens == 19
    assert (receipt.format, receipt.model, receipt.status, receipt.billed) == (kind, "m-1", 200, True)
    assert receipt.authenticated
    assert not receipt.replayed
    assert receipt.request == json.loads(adapter(fake, kind).encode(ASK).body)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("anthropic", Usage(100, 20, 3, 4, 50, 60)),
        ("openai", Usage(100, 20, 7, 0, 50, 60)),
        ("deepseek", Usage(107, 20, 0, 0, 50, 60)),
        ("gemini", Usage(107, 20, 0, 0, 50, 60)),
    ],
)
def test_every_token_class_that_a_format_has_is_reported_and_billed(fake, kind, expected):
    fake.behave(
        Behaviour(
            input_tokens=100,
            cached_input_tokens=20,
            cache_write_tokens=3,
            cache_write_1h_tokens=4,
            output_tokens=50,
            reasoning_tokens=60,
        )
    )
    assert complete(fake, kind).usage == expected
    assert billed(fake.receipts()[0]) == expected


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("behaviour", "content", "output", "reasoning"),
    [
        (Behaviour(content="a b c d e f g h i"), "a b c d e", 5, 0),
        (Behaviour(content="a b c", reasoning_tokens=3), "a b", 2, 3),
        (Behaviour(content="a b c", reasoning_tokens=9), "", 0, 5),
        (Behaviour(content="a b c", output_tokens=900), "a b c", 5, 0),
        (Behaviour(content="a b c", use_full_max_tokens=True), "a b c", 5, 0),
        (Behaviour(content="a b c", output_factor=2.0), "a b c", 10, 0),
        (Behaviour(content="a b c", output_factor=1.5, reasoning_tokens=2), "a b c", 6, 2),
    ],
)
def test_max_tokens_binds_unless_told_otherwise(fake, kind, behaviour, content, output, reasoning):
    fake.behave(behaviour)
    answer = complete(fake, kind, msgspec.structs.replace(ASK, max_tokens=5))
    assert (answer.content, answer.finish_reason) == (content, "length")
    assert answer.usage == Usage(input_tokens=10, output_tokens=output, reasoning_tokens=reasoning)
    assert billed(fake.receipts()[0]) == answer.usage


def test_input_is_counted_from_bytes_as_finely_as_told(fake):
    fake.behave(Behaviour(bytes_per_token=1))
    complete(fake, "openai")
    assert fake.receipts()[0].input_tokens == 38


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("status", "outcome"), [(400, Rejected), (401, Overloaded), (404, Overloaded), (429, Overloaded), (529, Overloaded)]
)
def test_an_error_status_has_the_vendors_envelope_and_is_not_billed(fake, kind, status, outcome):
    fake.behave(Behaviour(status=status, reason="Because.", retry_after_s=2.5))
    with pytest.raises(outcome) as caught:
        complete(fake, kind)
    assert caught.value.status == status
    assert ("Because." in str(caught.value)) == (status == 400)
    assert caught.value.retry_after_s == (2.5 if status in {429, 529} else None)
    (receipt,) = fake.receipts()
    assert (receipt.status, receipt.billed, receipt.total_tokens) == (status, False, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_refused_key_is_repeated_in_part_as_vendors_do(fake, kind):
    fake.behave(Behaviour(status=401))
    answer = send(fake, kind, adapter(fake, kind).encode(ASK))
    assert b"sk-test-***6789" in answer.body


@pytest.mark.parametrize(("status", "is_billed"), [(502, True), (504, True), (500, False), (503, False)])
def test_a_bare_error_hides_a_bill_where_an_intermediary_may_have_lost_the_answer(fake, status, is_billed):
    fake.behave(Behaviour(status=status, bare=True))
    with pytest.raises(OutcomeUnknown if is_billed else Overloaded):
        complete(fake, "openai")
    (receipt,) = fake.receipts()
    assert (receipt.billed, receipt.total_tokens) == (is_billed, 19 if is_billed else 0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("usage", "reported", "cost"),
    [
        ("omitted", None, 19),
        ("malformed", None, 19),
        ("zero", Usage(), 0),
        ("reported", Usage(10, output_tokens=9), 19),
    ],
)
def test_usage_is_reported_as_told(fake, kind, usage, reported, cost):
    fake.behave(Behaviour(usage=usage))
    answer = complete(fake, kind)
    assert answer.content.startswith("The quick")
    assert answer.usage == reported
    assert (fake.receipts()[0].billed, fake.receipts()[0].total_tokens) == (True, cost)


@pytest.mark.parametrize("kind", KINDS)
def test_garbage_is_billed(fake, kind):
    fake.behave(Behaviour(garbage=True))
    with pytest.raises(OutcomeUnknown):
        complete(fake, kind)
    assert fake.receipts()[0].total_tokens == 19


def test_a_body_is_compressed_when_told(fake):
    fake.behave(Behaviour(gzip=True))
    answer = send(fake, "openai", adapter(fake, "openai").encode(ASK))
    assert answer.headers["content-encoding"] == "gzip"
    assert adapter(fake, "openai").decode(answer).content.startswith("The quick")


def test_a_hanging_call_is_billed(fake):
    fake.behave(Behaviour(hang=True))
    with pytest.raises(TimeoutError):
        complete(fake, "openai", timeout_s=0.05)
    (receipt,) = fake.receipts()
    assert (receipt.status, receipt.billed, receipt.total_tokens) == (None, True, 19)


@pytest.mark.parametrize("reset", ["before_answer", "mid_answer"])
def test_a_reset_cuts_the_connection_and_is_billed(fake, reset):
    fake.behave(Behaviour(reset=reset))
    with pytest.raises(ConnectionResetError):
        complete(fake, "openai")
    (receipt,) = fake.receipts()
    assert (receipt.status, receipt.billed, receipt.total_tokens) == (None, True, 19)


def request_bytes(path: str, body: bytes, *headers: str) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "host: fake", f"content-length: {len(body)}", *headers, "", ""]
    return "\r\n".join(lines).encode() + body


CHAT = b'{"model":"m","messages":[{"role":"user","content":"hello"}]}'


@pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_mid_answer_half_the_body_arrives_before_the_reset_on_either_loop(loop_factory):
    async def scenario() -> tuple[bytes, BaseException]:
        fake = FakeProvider()
        await fake.start()
        fake.behave(Behaviour(reset="mid_answer"))
        reader, writer = await asyncio.open_connection("127.0.0.1", fake.port)
        writer.write(request_bytes("/chat/completions", CHAT))
        head = await reader.readuntil(b"\r\n\r\n")
        try:
            return head, await_error(await reader.read(100_000), await reader.read())
        except ConnectionResetError as error:
            return head, error
        finally:
            writer.close()
            await fake.stop()

    def await_error(*read: bytes) -> BaseException:
        return AssertionError(f"the connection ended without a reset after {read}")

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        head, error = runner.run(scenario())
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert isinstance(error, ConnectionResetError)


def test_keep_alive_is_kept_until_told_otherwise(fake):
    connection = http.client.HTTPConnection("127.0.0.1", fake.port, timeout=10)
    with contextlib.closing(connection):
        for _ in range(3):
            connection.request("POST", "/chat/completions", CHAT)
            answer = connection.getresponse()
            answer.read()
            assert not answer.will_close
        fake.behave(Behaviour(no_keep_alive=True))
        connection.request("POST", "/chat/completions", CHAT)
        answer = connection.getresponse()
        answer.read()
        assert answer.will_close


def test_a_second_request_before_the_answer_cuts_the_connection(fake):
    fake.behave(Behaviour(hang=True))
    with socket.create_connection(("127.0.0.1", fake.port), timeout=10) as client:
        client.sendall(request_bytes("/chat/completions", CHAT) * 2)
        assert client.recv(100) == b""


def test_a_request_may_arrive_byte_by_byte(fake):
    with socket.create_connection(("127.0.0.1", fake.port), timeout=10) as client:
        for byte in request_bytes("/chat/completions", CHAT, "X-Request-Id: req_1"):
            client.sendall(bytes([byte]))
        assert client.recv(100).startswith(b"HTTP/1.1 200 OK")
    assert (fake.receipts()[0].correlation_id, fake.receipts()[0].authenticated) == ("req_1", False)


def test_the_script_comes_before_the_models_behaviour_and_that_before_the_default(fake):
    fake.behave(Behaviour(content="default"))
    fake.behave(Behaviour(content="of m-1"), model="m-1")
    fake.script([Behaviour(content="first"), Behaviour(content="second")])
    other = msgspec.structs.replace(ASK, model="m-2")
    contents = [complete(fake, "openai", ask).content for ask in (ASK, other, ASK, other)]
    assert contents == ["first", "second", "of m-1", "default"]
    assert [receipt.order for receipt in fake.receipts()] == sorted(receipt.order for receipt in fake.receipts())
    assert len({receipt.id for receipt in fake.receipts()}) == 4


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"\xff", b'{"model": 3, "contents": 3}'])
def test_a_request_that_is_none_of_its_format_is_refused_as_the_vendor_would(fake, kind, body):
    wire = msgspec.structs.replace(adapter(fake, kind).encode(ASK), body=body)
    with pytest.raises(Rejected):
        adapter(fake, kind).decode(send(fake, kind, wire))
    assert [receipt.billed for receipt in fake.receipts()] == [False]


@pytest.mark.parametrize(
    "fields", [{"max_tokens": 0}, {"max_tokens": 5, "max_completion_tokens": 5}, {"stream_options": {}}]
)
def test_what_openai_refuses_is_refused(fake, fields):
    wire = adapter(fake, "openai").encode(ASK)
    wire = msgspec.structs.replace(wire, body=json.dumps(json.loads(wire.body) | fields).encode())
    assert send(fake, "openai", wire).status == 400


def test_elsewhere_nothing_is_spoken_and_nothing_billed(fake):
    assert control(fake, "GET", "/v1/models")[0] == 404
    assert control(fake, "POST", "/v1/images/generations", {})[0] == 404
    assert control(fake, "POST", "/v1beta/models/m:predict", {})[0] == 404
    assert fake.receipts() == []


def test_receipts_are_also_lines_of_a_file_and_hold_no_key(tmp_path):
    path = tmp_path / "receipts.jsonl"
    path.write_text('{"of": "an earlier run"}\n')
    with FakeProvider(path) as fake:
        for kind in KINDS:
            complete(fake, kind)
        # A body of many lines is still one line of the file, and one that is no JSON is null.
        pretty = json.dumps(json.loads(CHAT), indent=2).encode()
        send(fake, "deepseek", WireRequest("/chat/completions", (), pretty))
        send(fake, "deepseek", WireRequest("/chat/completions", (), b"{\n"))
        text = path.read_text()
        receipts = fake.receipts()
    lines = text.splitlines()
    assert lines[0] == '{"of": "an earlier run"}'
    assert [msgspec.json.decode(line, type=Receipt) for line in lines[1:]] == receipts
    assert receipts[4].request == json.loads(CHAT)
    assert receipts[5].request is None
    assert KEY not in text


def test_receipts_outlive_the_fake():
    with FakeProvider() as fake:
        complete(fake, "gemini")
    assert len(fake.receipts()) == 1
    with pytest.raises(RuntimeError, match="has not been started"):
        fake.base_url("openai")


def test_a_recorded_exchange_is_replayed_once(fake):
    recorded = {"choices": [{"message": {"content": "Recorded"}, "finish_reason": "stop"}]}
    fake.replay({"id": "x", "path": "/p", "status": 200, "content_type": "application/json", "response": recorded})
    fake.replay({"status": 503, "response": "<html>", "content_type": None})
    assert complete(fake, "openai") == ProviderAnswer("Recorded", "stop", None)
    with pytest.raises(Overloaded):
        complete(fake, "openai")
    assert complete(fake, "openai").content.startswith("The quick")
    assert [(r.replayed, r.billed, r.total_tokens) for r in fake.receipts()] == [
        (True, True, 0),
        (True, False, 0),
        (False, True, 19),
    ]


def test_what_is_no_exchange_is_not_replayed(fake):
    with pytest.raises(ValueError, match="`status`"):
        fake.replay({"response": {}})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"usage": "omited"}, "usage: expected one of reported, omitted, zero, malformed"),
        ({"reset": "now"}, "reset: expected one of before_answer, mid_answer"),
        ({"status": 99}, "status: expected an HTTP status from 200 to 599, found 99"),
        ({"delay_s": -1}, "delay_s: expected 0 or more"),
        ({"chunk_delay_s": -1}, "chunk_delay_s: expected 0 or more"),
        ({"cut_after_events": -1}, "cut_after_events: expected 0 or more"),
        ({"hang_after_events": -1}, "hang_after_events: expected 0 or more"),
        ({"cut_after_events": 1, "error_after_events": 1}, "hang_after_events: expected one of them at most"),
        ({"cut": "off"}, "cut: expected one of eof, close, reset, found 'off'"),
        ({"tool_call": {"name": "f"}}, "tool_call: expected a ToolCall, found dict"),
        ({"output_tokens": -1}, "output_tokens: expected 0 or more"),
        ({"bytes_per_token": 0}, "bytes_per_token: expected 1 or more"),
    ],
)
def test_a_behaviour_that_cannot_be_meant_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Behaviour(**fields)


def test_over_http_it_is_told_the_same_as_in_python(fake):
    assert control(fake, "POST", "/_fake/behaviour", {"content": "default"})[0] == 200
    assert control(fake, "POST", "/_fake/behaviour?model=m-1", {"content": "of m-1"})[0] == 200
    assert control(fake, "POST", "/_fake/script", [{"content": "first"}])[0] == 200
    assert control(fake, "POST", "/_fake/replay", {"status": 503, "response": ""})[0] == 200
    other = msgspec.structs.replace(ASK, model="m-2")
    assert complete(fake, "openai").content == "first"
    assert send(fake, "openai", adapter(fake, "openai").encode(ASK)).status == 503
    assert [complete(fake, "openai", ask).content for ask in (ASK, other)] == ["of m-1", "default"]
    status, receipts = control(fake, "GET", "/_fake/receipts")
    assert status == 200
    assert [receipt["model"] for receipt in receipts] == ["m-1", "m-1", "m-1", "m-2"]
    assert receipts[0]["request"]["max_tokens"] == 400
    assert control(fake, "POST", "/_fake/reset")[0] == 200
    assert control(fake, "GET", "/_fake/receipts") == (200, [])
    assert complete(fake, "openai").content.startswith("The quick")


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("/_fake/behaviour", {"delay": 1}, 400, "unknown field `delay`"),
        ("/_fake/behaviour", {"status": 99}, 400, "status: expected an HTTP status"),
        ("/_fake/behaviour", None, 400, "truncated"),
        ("/_fake/behaviour", {"tool_call": {"name": ""}}, 400, "name: expected a tool's name, found none"),
        ("/_fake/script", {}, 400, "Expected `array`"),
        ("/_fake/replay", {"status": 200}, 400, "`response`"),
        ("/_fake/behavior", {}, 404, "POST /_fake/behavior"),
    ],
)
def test_over_http_what_it_cannot_do_is_named(fake, path, body, status, message):
    answered, text = control(fake, "POST", path, body)
    assert answered == status
    assert message in text["message"]


def test_a_port_that_is_taken_is_an_error_in_the_starting_thread(fake, tmp_path):
    with pytest.raises(OSError, match="in use"), FakeProvider(port=fake.port):
        pass
    with pytest.raises(IsADirectoryError), FakeProvider(tmp_path):
        pass


def test_many_calls_at_once_are_answered_after_their_delay():
    async def call(port: int) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request_bytes("/chat/completions", CHAT, "connection: close"))
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        return answer

    async def scenario() -> tuple[list[bytes], float]:
        fake = FakeProvider()
        await fake.start()
        fake.behave(Behaviour(delay_s=0.3))
        started_s = asyncio.get_running_loop().time()
        answers = await asyncio.gather(*(call(fake.port) for _ in range(500)))
        took_s = asyncio.get_running_loop().time() - started_s
        await fake.stop()
        assert sorted(receipt.order for receipt in fake.receipts()) == list(range(1, 501))
        return answers, took_s

    answers, took_s = asyncio.run(scenario())
    assert all(answer.startswith(b"HTTP/1.1 200 OK") for answer in answers)
    assert took_s >= 0.3


def test_stopping_cuts_calls_that_hang(tmp_path: Path):
    failures: list[BaseException] = []

    def ask(fake: FakeProvider) -> None:
        try:
            complete(fake, "openai")
        except (ConnectionError, http.client.HTTPException) as error:
            failures.append(error)

    path = tmp_path / "receipts.jsonl"
    with FakeProvider(path) as fake:
        fake.behave(Behaviour(hang=True))
        caller = threading.Thread(target=ask, args=(fake,))
        caller.start()
        while not fake.receipts():
            time.sleep(0.001)
    caller.join()
    assert len(failures) == 1
    assert len(path.read_text().splitlines()) == 1

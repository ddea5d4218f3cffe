import asyncio
import contextlib
import http.client
import json
import socket
import time
from pathlib import Path
from typing import Any

import pytest
import uvloop

from harness.fake_calls import Answer, post
from tollhouse.testing import Behaviour, FakeProvider, Receipt

TURNS = [{"role": "user", "content": "What is it?"}]
PATH, BODY = "/chat/completions", {"model": "m", "messages": TURNS, "stream": True}
BOTH_LOOPS = pytest.mark.parametrize("loop_factory", [asyncio.new_event_loop, uvloop.new_event_loop])
RECORDED = Path(__file__).resolve().parents[4] / "shared" / "recorded"


def request(body: dict[str, Any] = BODY, path: str = PATH) -> bytes:
    payload = json.dumps(body).encode()
    return f"POST {path} HTTP/1.1\r\nhost: fake\r\ncontent-length: {len(payload)}\r\n\r\n".encode() + payload


def stream(fake: FakeProvider) -> Answer:
    return post(fake, PATH, BODY, timeout_s=5)


def wait_for_receipt(fake: FakeProvider, field: str) -> Receipt:
    """Return the only receipt once it is there and has this field."""
    deadline_s = time.monotonic() + 5
    while time.monotonic() < deadline_s:
        for receipt in fake.receipts():
            if getattr(receipt, field) is not None:
                return receipt
        time.sleep(0.005)
    raise AssertionError(f"no {field} in {fake.receipts()}")


@pytest.mark.parametrize(
    ("cut", "error"),
    [("eof", type(None)), ("close", http.client.IncompleteRead), ("reset", ConnectionResetError)],
)
def test_a_stream_is_cut_after_so_many_events(fake, cut, error):
    fake.behave(Behaviour(content="Two words", cut_after_events=2, cut=cut))
    answer = stream(fake)
    assert type(answer.error) is error
    assert [event["choices"][0]["delta"].get("content") for event in answer.data] == ["", "Two"]
    (receipt,) = fake.receipts()
    assert (receipt.status, receipt.billed, receipt.total_tokens) == (200, True, 5)
    assert (receipt.streamed_events, receipt.client_left_after) == (2, None)


def test_a_reset_mid_answer_cuts_a_stream_after_its_first_event(fake):
    fake.behave(Behaviour(reset="mid_answer"))
    answer = stream(fake)
    assert isinstance(answer.error, ConnectionResetError)
    assert len(answer.data) == 1


def test_a_reset_before_the_answer_is_one_for_streams_as_well(fake):
    fake.behave(Behaviour(reset="before_answer"))
    with pytest.raises(ConnectionResetError):
        stream(fake)
    (receipt,) = fake.receipts()
    assert (receipt.status, receipt.billed, receipt.streamed_events, receipt.client_left_after) == (None, True, 0, None)


@pytest.mark.parametrize("events", [0, 2])
def test_a_stream_hangs_after_so_many_events_and_notices_who_leaves(fake, events):
    fake.behave(Behaviour(hang_after_events=events))
    answer = post(fake, PATH, BODY, timeout_s=0.1)
    assert isinstance(answer.error, TimeoutError)
    assert answer.status == 200
    assert len(answer.data) == events
    receipt = wait_for_receipt(fake, "client_left_after")
    assert (receipt.status, receipt.streamed_events, receipt.client_left_after) == (200, events, events)


def test_a_stream_may_hang_before_its_head(fake):
    fake.behave(Behaviour(hang=True))
    with pytest.raises(TimeoutError):
        post(fake, PATH, BODY, timeout_s=0.05)
    receipt = wait_for_receipt(fake, "client_left_after")
    assert (receipt.status, receipt.streamed_events, receipt.client_left_after) == (None, 0, 0)


def test_events_come_one_by_one_with_a_delay_and_who_leaves_is_noticed(fake):
    fake.behave(Behaviour(content="word " * 500, delay_s=0.1, chunk_delay_s=0.02))
    with socket.create_connection(("127.0.0.1", fake.port), timeout=5) as client:
        started_s = time.monotonic()
        client.sendall(request())
        first = client.recv(65536)
        assert time.monotonic() - started_s >= 0.1
        assert first.startswith(b"HTTP/1.1 200 OK\r\n")
        assert first.count(b"data: ") == 1
        for _ in range(3):
            assert client.recv(65536).count(b"data: ") == 1
        assert time.monotonic() - started_s >= 0.1 + 3 * 0.02
    receipt = wait_for_receipt(fake, "client_left_after")
    assert receipt.client_left_after == receipt.streamed_events
    assert receipt.client_left_after in range(4, 20)
    assert receipt.output_tokens == 500


def test_a_client_may_leave_before_the_first_event(fake):
    fake.behave(Behaviour(delay_s=5))
    with socket.create_connection(("127.0.0.1", fake.port), timeout=5) as client:
        client.sendall(request())
        wait_for_receipt(fake, "order")
    assert wait_for_receipt(fake, "client_left_after").client_left_after == 0


def test_a_connection_goes_on_after_a_stream_until_told_otherwise(fake):
    connection = http.client.HTTPConnection("127.0.0.1", fake.port, timeout=5)
    with contextlib.closing(connection):
        for chunk_delay_s in (0.0, 0.001, 0.0):
            fake.behave(Behaviour(chunk_delay_s=chunk_delay_s))
            connection.request("POST", PATH, json.dumps(BODY))
            answer = connection.getresponse()
            assert answer.read().endswith(b"data: [DONE]\n\n")
            assert not answer.will_close
        fake.behave(Behaviour(no_keep_alive=True))
        connection.request("POST", PATH, json.dumps(BODY))
        answer = connection.getresponse()
        assert answer.read().endswith(b"data: [DONE]\n\n")
        assert answer.will_close
    assert [receipt.client_left_after for receipt in fake.receipts()] == [None] * 4


def test_without_a_delay_all_events_of_a_stream_are_one_write_and_each_is_a_chunk(fake):
    fake.behave(Behaviour(content="Two words"))
    with socket.create_connection(("127.0.0.1", fake.port), timeout=5) as client:
        client.sendall(request())
        head, _, body = client.recv(65536).partition(b"\r\n\r\n")
    assert b"transfer-encoding: chunked" in head
    assert b"content-length" not in head
    assert chunks_of(body) == [event + b"\n\n" for event in b"".join(chunks_of(body)).split(b"\n\n")[:-1]]
    assert len(chunks_of(body)) == 5


def chunks_of(body: bytes) -> list[bytes]:
    chunks: list[bytes] = []
    while True:
        size, _, rest = body.partition(b"\r\n")
        chunk, body = rest[: int(size, 16)], rest[int(size, 16) :]
        assert body.startswith(b"\r\n")
        body = body[2:]
        if not chunk:
            assert body == b""
            return chunks
        chunks.append(chunk)


@BOTH_LOOPS
@pytest.mark.parametrize("chunk_delay_s", [0.0, 0.00001])
def test_a_slow_reader_holds_the_stream_up(loop_factory, chunk_delay_s):
    # Of 2 KB each: the whole stream is far more than sockets and transports buffer.
    words = 20_000

    async def stands_still(fake: FakeProvider) -> int:
        """Return the events sent, once they have been as many for a while."""
        sent = -1
        while sent != (sent := fake.receipts()[0].streamed_events or 0) or sent == 0:
            await asyncio.sleep(0.2)
        return sent

    async def scenario() -> tuple[int, int, bytes]:
        fake = FakeProvider()
        await fake.start()
        fake.behave(Behaviour(content=("x" * 2000 + " ") * words, chunk_delay_s=chunk_delay_s))
        reader, writer = await asyncio.open_connection("127.0.0.1", fake.port, limit=65536)
        writer.write(request(BODY | {"max_tokens": words}))
        while not fake.receipts():
            await asyncio.sleep(0.01)
        held_up = await stands_still(fake)
        end = b""
        # With a delay, the rest would take seconds.
        while chunk_delay_s == 0 and not end.endswith(b"0\r\n\r\n"):
            end = end[-20:] + await reader.read(1 << 20)
        sent = fake.receipts()[0].streamed_events or 0
        writer.close()
        await fake.stop()
        return held_up, sent, end

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        held_up, sent, end = runner.run(scenario())
    assert 0 < held_up < words / 2
    if chunk_delay_s == 0:
        assert sent == words + 3
        assert end.endswith(b"data: [DONE]\n\n\r\n0\r\n\r\n")


@BOTH_LOOPS
def test_many_streams_at_once(loop_factory):
    async def call(port: int) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request())
        answer = await reader.readuntil(b"\r\n0\r\n\r\n")
        writer.close()
        return answer

    async def scenario() -> list[bytes]:
        fake = FakeProvider()
        await fake.start()
        fake.behave(Behaviour(chunk_delay_s=0.005))
        answers = await asyncio.gather(*(call(fake.port) for _ in range(300)))
        await fake.stop()
        # Whoever stops it does not count as a client that left.
        assert {(r.streamed_events, r.client_left_after) for r in fake.receipts()} == {(12, None)}
        return answers

    with asyncio.Runner(loop_factory=loop_factory) as runner:
        answers = runner.run(scenario())
    assert {answer.count(b"data: ") for answer in answers} == {12}


def test_stopping_is_not_a_client_that_leaves():
    with FakeProvider() as fake:
        fake.behave(Behaviour(hang_after_events=1))
        client = socket.create_connection(("127.0.0.1", fake.port), timeout=5)
        client.sendall(request())
        assert client.recv(65536)
    with contextlib.closing(client):
        assert (fake.receipts()[0].streamed_events, fake.receipts()[0].client_left_after) == (1, None)


def test_the_receipts_file_has_a_stream_as_it_was_when_it_began(tmp_path):
    path = tmp_path / "receipts.jsonl"
    with FakeProvider(path) as fake:
        stream(fake)
        assert fake.receipts()[0].streamed_events == 12
    (line,) = path.read_text().splitlines()
    assert (json.loads(line)["streamed_events"], json.loads(line)["output_tokens"]) == (0, 9)


def test_a_recorded_stream_is_replayed_byte_for_byte_an_event_a_chunk(fake):
    text = "event: a\r\ndata: 1\r\n\r\n: comment\n\ndata: 2\ndata: é\n\ndata: [DONE]"
    fake.replay({"status": 200, "content_type": "text/event-stream; x=y", "response": text, "stream": True})
    with socket.create_connection(("127.0.0.1", fake.port), timeout=5) as client:
        client.sendall(request())
        head, _, body = client.recv(65536).partition(b"\r\n\r\n")
    assert b"content-type: text/event-stream; x=y\r\n" in head
    assert chunks_of(body) == [
        b"event: a\r\ndata: 1\r\n\r\n",
        b": comment\n\n",
        "data: 2\ndata: é\n\n".encode(),
        b"data: [DONE]",
    ]
    (receipt,) = fake.receipts()
    assert (receipt.replayed, receipt.billed, receipt.total_tokens, receipt.streamed_events) == (True, True, 0, 4)


def test_what_is_no_text_is_not_replayed_as_a_stream(fake):
    with pytest.raises(ValueError, match="stream: expected the response's text, found dict"):
        fake.replay({"status": 200, "response": {}, "stream": True})


@pytest.mark.parametrize("name", ["anthropic-messages", "openai-chat", "openai-responses", "gemini-generate"])
def test_all_that_was_recorded_is_replayed_byte_for_byte(fake, name):
    file = RECORDED / f"{name}.jsonl"
    if not file.is_file():
        pytest.skip(f"the recorded provider traffic is not here: {file}")
    exchanges = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    streams = [exchange for exchange in exchanges if exchange["stream"]]
    assert len(streams) >= 6
    for exchange in streams:
        fake.replay(exchange)
        assert stream(fake).body == exchange["response"].encode()

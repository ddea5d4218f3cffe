"""Streamed answers as HTTP: framed for each kind of client, read as slowly as it likes, and whole at every stop."""

import json
import threading
import time

import pytest

from harness.calls import body_for
from harness.service import Service, eventually, limits, model, providers
from harness.wire import Wire, head_of, request
from tollhouse.providers.sse import EventParser
from tollhouse.testing import Behaviour, FakeProvider
from tollhouse.testing.behaviour import Exchange

# Framing has nothing to do with where the books are.
pytestmark = pytest.mark.engine("sqlite")
MODEL = "gpt-4o-mini"
TEXT = "The quick brown fox jumps over the lazy dog."


@pytest.fixture
def wire(service):
    with Wire(service) as wire:
        yield wire


@pytest.fixture
def tenant(service):
    return service.tenant()


def stream(tenant, *extra, **changes):
    return request(tenant, *extra, **{"model": MODEL, "stream": True, **changes})


def events(body):
    return [(each.name, json.loads(each.data)) for each in EventParser(1 << 20).feed(body) if each.data]


def said(body):
    return "".join(data["content"] for name, data in events(body) if name == "delta")


def is_whole(body):
    return [name for name, _ in events(body)][-2:] == ["usage", "done"]


def test_a_stream_is_chunked_and_its_connection_serves_on(service, fake, tenant, wire):
    for _ in range(3):
        reply = wire.send(stream(tenant)).reply()
        assert reply.status == 200
        assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert reply.headers["transfer-encoding"] == "chunked"
        assert not {"content-length", "connection"} & set(reply.headers)
        assert (reply.headers["cache-control"], reply.headers["x-accel-buffering"]) == ("no-cache", "no")
        assert said(reply.body) == TEXT
        assert events(reply.body)[-1][1]["request_id"] == reply.headers["x-request-id"]
    assert wire.send(request(tenant, model=MODEL)).reply().json["content"] == TEXT
    assert wire.send(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").reply().status == 200


def test_events_come_one_by_one(service, fake, tenant, wire):
    fake.behave(Behaviour(chunk_delay_s=0.05))
    wire.send(stream(tenant)).head()
    came_s = []
    for chunk in wire.chunks():
        if said(chunk):
            came_s.append(time.monotonic())
    assert len(came_s) == len(TEXT.split())
    assert came_s[-1] - came_s[0] > 0.05 * (len(came_s) - 1) * 0.8


def test_a_client_of_http_1_0_gets_events_without_chunks_and_the_end_of_its_connection(service, fake, tenant):
    for extra in ((), ("connection: keep-alive",)):
        with Wire(service) as wire:
            status, headers = wire.send(stream(tenant, *extra, version="1.0")).head()
            assert (status, headers["connection"]) == (200, "close")
            assert not {"transfer-encoding", "content-length"} & set(headers)
            body = wire.rest()
            assert (said(body), is_whole(body)) == (TEXT, True)


def test_a_client_that_closes_after_its_call_is_told_that_the_connection_ends(service, fake, tenant, wire):
    reply = wire.send(stream(tenant, "connection: close")).reply()
    assert reply.headers["connection"] == "close"
    assert is_whole(reply.body)
    assert wire.is_closed()


@pytest.mark.parametrize("version", ["1.0", "1.1"])
def test_a_call_that_is_sent_ahead_changes_nothing_about_the_stream_before_it(service, fake, tenant, wire, version):
    fake.behave(Behaviour(chunk_delay_s=0.02))
    wire.send(stream(tenant)).head()
    chunks = wire.chunks()
    body = next(chunks)
    wire.send(request(tenant, version=version, model=MODEL))
    assert is_whole(body + b"".join(chunks))
    assert wire.is_closed(), "what was sent ahead may be sent again elsewhere"
    assert len(fake.receipts()) == 1


@pytest.mark.parametrize("path", ["/ai/complete", "/v1/chat/completions"])
def test_only_a_post_streams(service, fake, wire, path):
    status, headers = wire.send(head_of("HEAD", path)).head()
    assert status == 405
    assert "transfer-encoding" not in headers
    assert wire.send(b"GET /livez HTTP/1.1\r\nhost: x\r\n\r\n").reply().status == 200
    assert fake.receipts() == []


def test_what_is_refused_before_the_first_event_is_an_answer_like_any_other(service, fake, tenant, wire):
    assert wire.send(stream(tenant, max_tokens=0)).reply().status == 422
    fake.behave(Behaviour(status=400))
    reply = wire.send(stream(tenant)).reply()
    assert (reply.status, reply.headers["content-type"]) == (422, "application/json")
    assert reply.headers["content-length"]
    fake.behave(Behaviour())
    assert is_whole(wire.send(stream(tenant)).reply().body)


def test_a_repeated_stream_is_the_same_bytes_with_their_length_and_is_paid_once(service, fake, tenant, wire):
    first = wire.send(stream(tenant, "idempotency-key: stream-1")).reply()
    again = wire.send(stream(tenant, "idempotency-key: stream-1")).reply()
    assert (again.status, again.body) == (200, first.body)
    assert again.headers["content-type"] == first.headers["content-type"]
    assert again.headers["content-length"] == str(len(first.body))
    assert again.headers["idempotent-replayed"] == "true"
    assert again.headers["x-request-id"] == first.headers["x-request-id"]
    other = wire.send(request(tenant, "idempotency-key: stream-1", model=MODEL)).reply()
    assert (other.status, other.code) == (422, "ai_idempotency_mismatch")
    assert len(fake.receipts()) == len(service.rows(tenant_id=tenant)) == 1


def test_a_stream_whose_caller_left_is_there_when_it_is_asked_for_again(service, fake, tenant):
    fake.behave(Behaviour(chunk_delay_s=0.02))
    with Wire(service) as wire:
        wire.send(stream(tenant, "idempotency-key: stream-2")).head()
        next(wire.chunks())
    eventually(lambda: service.rows(tenant_id=tenant))
    with Wire(service) as wire:
        again = wire.send(stream(tenant, "idempotency-key: stream-2")).reply()
    assert again.headers["idempotent-replayed"] == "true"
    assert len(fake.receipts()) == 1
    assert is_whole(again.body)
    assert said(again.body) == TEXT


WHOLE = {
    "id": "chatcmpl-1",
    "object": "chat.completion",
    "model": "gpt",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello."}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12},
}


def relayed(tenant):
    """Return a streamed call in the provider's own format."""
    raw = json.dumps({"model": MODEL, "stream": True, "messages": [{"role": "user", "content": "Hi"}]}).encode()
    whose = (f"x-tenant-id: {tenant}", "x-feature-slug: f", f"content-length: {len(raw)}")
    return head_of("POST", "/v1/chat/completions", *whose) + raw


def test_an_answer_that_comes_whole_though_a_stream_was_asked_for_is_streamed(service, fake, tenant, wire):
    fake.replay(Exchange(200, WHOLE, "application/json"))
    assert said(wire.send(stream(tenant)).reply().body) == "Hello."
    fake.replay(Exchange(200, WHOLE, "application/json"))
    body = wire.send(relayed(tenant)).reply().body
    assert body.endswith(b"data: [DONE]\n\n")
    chunks = [json.loads(each.data) for each in EventParser(1 << 20).feed(body) if each.data != b"[DONE]"]
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks) == "Hello."
    for row in service.rows(tenant_id=tenant):
        assert (row["status"], row["usage_source"], row["input_tokens"]) == ("settled", "reported", 9)
    assert len(service.rows(tenant_id=tenant)) == 2


@pytest.mark.parametrize("call", [stream, relayed])
def test_an_error_under_status_200_in_answer_to_a_stream_costs_nothing(service, fake, tenant, wire, call):
    for _ in range(2):
        fake.replay(Exchange(200, {"error": {"message": "nobody is there", "code": 502}}, "application/json"))
    reply = wire.send(call(tenant)).reply()
    assert (reply.status, reply.headers["content-type"]) == (503, "application/json")
    assert service.rows(tenant_id=tenant) == []
    assert not service.open_reservations()


@pytest.mark.parametrize("after", [0, 1, 4], ids="after {} chunks".format)
def test_a_caller_who_leaves_has_the_answer_read_to_its_end_and_entered(service, fake, tenant, after):
    fake.behave(Behaviour(chunk_delay_s=0.02, input_tokens=7))
    with Wire(service) as wire:
        wire.send(stream(tenant))
        if after:
            wire.head()
            chunks = wire.chunks()
            for _ in range(after):
                next(chunks)
        else:
            eventually(fake.receipts)
    (row,) = eventually(lambda: service.rows(tenant_id=tenant))
    assert (row["status"], row["usage_source"], row["input_tokens"]) == ("settled", "reported", 7)
    (receipt,) = fake.receipts()
    assert row["output_tokens"] == receipt.output_tokens == len(TEXT.split())
    assert receipt.client_left_after is None
    assert not service.open_reservations()


def test_a_caller_who_reads_slowly_slows_the_provider_and_gets_all_of_it(service, fake, tenant):
    count = 100_000
    fake.behave(Behaviour(content=" ".join(["word"] * count)))
    body = {"model": MODEL, "stream": True, "max_tokens": count, "messages": [{"role": "user", "content": "words"}]}
    raw = json.dumps(body).encode()
    whose = (f"x-tenant-id: {tenant}", "x-feature-slug: f", f"content-length: {len(raw)}")
    with Wire(service) as wire:
        wire.send(head_of("POST", "/v1/chat/completions", *whose) + raw).head()
        sent = eventually(lambda: _stands_still(fake))
        assert sent < count, "the provider cannot send all of it, as nobody reads"
        # Another caller is served meanwhile.
        fake.behave(Behaviour())
        assert service.complete(body_for(tenant, model=MODEL)).status == 200
        read = b"".join(wire.chunks())
    assert read.count(b'"content":"') + read.count(b'"content": "') >= count
    assert read.endswith(b"data: [DONE]\n\n")
    assert fake.receipts()[0].client_left_after is None


def _stands_still(fake):
    """Return how many events of the first stream were sent, once no more are."""
    before = fake.receipts()[0].streamed_events
    time.sleep(0.3)
    after = fake.receipts()[0].streamed_events
    return after if before == after else 0


def test_a_stop_lets_a_stream_end_whole(tmp_path):
    with FakeProvider() as fake:
        fake.behave(Behaviour(chunk_delay_s=0.1))
        config = providers(fake) + model(MODEL, "openai") + limits()
        with Service(tmp_path, config, server="stop_timeout_s = 20") as service, Wire(service) as wire:
            tenant = service.tenant()
            wire.send(stream(tenant)).head()
            chunks = wire.chunks()
            body = next(chunks)
            codes: list[int] = []
            stopping = threading.Thread(target=lambda: codes.append(service.terminate()))
            stopping.start()
            body += b"".join(chunks)
            assert wire.is_closed()
            stopping.join()
            assert (said(body), is_whole(body), codes) == (TEXT, True, [0])
            (row,) = service.rows(tenant_id=tenant)
            assert (row["status"], row["usage_source"]) == ("settled", "reported")
            assert not service.open_reservations()

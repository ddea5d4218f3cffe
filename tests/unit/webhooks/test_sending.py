import asyncio
import ssl
import threading
from ipaddress import ip_network

import pytest

from harness.certificates import Authority
from harness.clock import FakeClock
from harness.receiver import Receiver
from tollhouse.webhooks import destination
from tollhouse.webhooks.sending import Sender

LOOPBACK = [ip_network("127.0.0.0/8")]
BODY = b'{"specversion":"1.0"}'


@pytest.fixture
def receiver():
    with Receiver() as receiver:
        yield receiver


def send(url, *, allowed=LOOPBACK, timeout_s=20.0, tls=None, clock=None):
    async def main():
        sender = Sender(clock or FakeClock(), allowed, timeout_s=timeout_s, tls=tls)
        return await sender.send(url, {"webhook-id": "evt_1"}, BODY)

    return asyncio.run(main())


def test_a_message_arrives_whole(receiver):
    result = send(f"{receiver.url}/hooks?a=b")
    assert (result.status, result.problem, result.is_delivered) == (200, "", True)
    (received,) = receiver.received
    assert (received.path, received.body) == ("/hooks?a=b", BODY)
    assert received.headers["content-type"] == "application/cloudevents+json"
    assert received.headers["host"] == receiver.url.removeprefix("http://")
    assert received.headers["webhook-id"] == "evt_1"
    assert received.headers["user-agent"].startswith("Tollhouse/")


def test_a_redirect_is_not_followed(receiver):
    receiver.answer = lambda _: (302, {"location": f"{receiver.url}/elsewhere"})
    result = send(receiver.url)
    assert (result.status, result.is_delivered) == (302, False)
    assert result.problem == "HTTP 302: redirects are not followed"
    assert len(receiver.received) == 1


def test_nothing_goes_into_a_private_network(receiver):
    result = send(receiver.url, allowed=[ip_network("10.0.0.0/8")])
    assert result.status is None
    assert "it leads into a private network" in result.problem
    assert receiver.received == []


def test_a_receiver_that_does_not_answer_is_given_up(receiver):
    is_over = threading.Event()
    receiver.answer = lambda _: (200 if is_over.wait(20) else 500, {})
    result = send(receiver.url, timeout_s=0.1)
    is_over.set()
    assert (result.status, result.problem) == (None, "no answer within 0.1 seconds")


def test_a_receiver_that_is_not_there_is_told_so():
    with Receiver() as gone:
        url = gone.url
    result = send(url)
    assert result.status is None
    assert result.problem.startswith("no connection, or no sound answer: ")


class Names:
    """Resolves each name to the next of some lists of addresses, and counts how often it is asked."""

    def __init__(self, *answers):
        self.asked = 0
        self._answers = answers

    async def __call__(self, host, port):
        found = self._answers[self.asked]
        self.asked += 1
        return [(0, 0, 0, "", (each, port)) for each in found]


def send_by(monkeypatch, names, url):
    async def main():
        monkeypatch.setattr(destination, "look_up", names)
        return await Sender(FakeClock(), LOOPBACK, timeout_s=20.0).send(url, {}, BODY)

    return asyncio.run(main())


def test_a_name_that_leads_elsewhere_the_next_moment_gains_nothing(receiver, monkeypatch):
    """DNS rebinding: what was judged is what is connected to, and the name is not asked for again."""
    names = Names(["127.0.0.1"], ["169.254.169.254"])
    result = send_by(monkeypatch, names, receiver.url.replace("127.0.0.1", "rebinding.example.com"))
    assert (result.status, names.asked) == (200, 1)
    (received,) = receiver.received
    assert received.headers["host"].startswith("rebinding.example.com:")


def test_of_several_addresses_the_first_is_taken_that_can_be_reached(receiver, monkeypatch):
    names = Names(["127.0.0.2", "127.0.0.1"])
    assert send_by(monkeypatch, names, receiver.url.replace("127.0.0.1", "several.example.com")).status == 200
    nobody = Names(["127.0.0.2", "127.0.0.3"])
    assert (
        "no connection"
        in send_by(monkeypatch, nobody, receiver.url.replace("127.0.0.1", "several.example.com")).problem
    )


def test_a_receiver_that_answers_with_a_page_has_received(receiver):
    receiver.page = b"x" * 200_000
    assert send(receiver.url).is_delivered


@pytest.mark.parametrize(
    ("text", "retry_after_s"),
    [
        ("120", 120),
        ("Fri, 10 Apr 2026 12:01:00 GMT", 60),
        ("Fri, 10 Apr 2026 11:00:00 GMT", 0),
        ("soon", None),
        # No parser of dates likes these, each in its own way.
        ("Fri, 10 Apr 99999999999999999999 12:00:00 GMT", None),
        ("Fri, 10 Apr 2026 12:00:00 -0000", None),
    ],
)
def test_a_receiver_says_when_it_wants_to_be_asked_again(receiver, text, retry_after_s):
    receiver.answer = lambda _: (503, {"retry-after": text})
    result = send(receiver.url, clock=FakeClock("2026-04-10T12:00:00Z"))
    assert (result.status, result.problem, result.retry_after_s) == (503, "HTTP 503", retry_after_s)


def test_a_certificate_that_nobody_vouches_for_is_refused(tmp_path):
    """The address is pinned, and yet it is the name that the certificate has to be for."""
    authority = Authority(tmp_path)
    certificate, key = authority.issue("localhost")
    server_tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server_tls.load_cert_chain(certificate, key)
    with Receiver() as receiver:
        receiver._server.socket = server_tls.wrap_socket(receiver._server.socket, server_side=True)
        url = receiver.url.replace("http:", "https:")
        trusting = ssl.create_default_context(cafile=authority.file)
        assert send(url.replace("127.0.0.1", "localhost"), tls=trusting, allowed=[*LOOPBACK]).status == 200
        refused = send(url)
        assert refused.status is None
        assert "certificate" in refused.problem.lower()
    assert len(receiver.received) == 1

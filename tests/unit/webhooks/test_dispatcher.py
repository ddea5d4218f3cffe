import asyncio
import base64
import hashlib
import hmac
import random
import threading
from ipaddress import ip_network

import msgspec
import pytest

from harness import engines
from harness.books import run_on_books, run_on_two
from harness.clock import FakeClock
from harness.receiver import Receiver
from tollhouse.config.events import Webhooks
from tollhouse.errors import InvalidRequest, NotFound
from tollhouse.events import outbox
from tollhouse.events.model import NewEvent
from tollhouse.kit.clock import utc_text
from tollhouse.kit.sealing import Vault
from tollhouse.webhooks import store
from tollhouse.webhooks.body import WebhookChanges, WebhookRequest
from tollhouse.webhooks.dispatcher import Dispatcher
from tollhouse.webhooks.model import RETRY_AFTER_S, Result
from tollhouse.webhooks.sending import Sender
from tollhouse.webhooks.service import WebhookAdministration

LOOPBACK = [ip_network("127.0.0.0/8")]
SETTINGS = Webhooks(allow_networks=("127.0.0.0/8",), timeout_s=5, max_concurrent=8, max_per_endpoint=2, poll_s=0.01)
HOUR_S = 3600


@pytest.fixture
def receiver():
    with Receiver() as receiver:
        yield receiver


class Desk:
    """A dispatcher whose rounds a test makes, and the administration of what it sends."""

    def __init__(self, books, settings=SETTINGS):
        self.books = books
        vault = Vault(b"v" * 32)
        gives_places = books.membership is not None
        self.admin = WebhookAdministration(books.database, books.clock, vault, settings, gives_places=gives_places)
        sender = Sender(books.clock, LOOPBACK, timeout_s=settings.timeout_s)
        self.dispatcher = Dispatcher(books.database, books.clock, sender, vault, settings, gives_places=gives_places)

    async def tell(self, *subjects, tenant_id="42", kind="ai.job.completed", webhook_url=""):
        now_ms = self.books.clock.now_ms()
        events = [NewEvent(kind, tenant_id, "", str(each), {"n": each}, now_ms, webhook_url) for each in subjects]
        await self.books.database.write(lambda connection: outbox.append_all(connection, events))

    async def endpoint(self, url, **wanted):
        made = await self.admin.create(WebhookRequest(url, **wanted), "admin")
        return made.endpoint.endpoint_id, made.secret

    async def round(self):
        """Send all that is due, and what becomes due for want of room."""
        while await self.dispatcher.give_out():
            pass
        while await self.dispatcher.send_due() or self.dispatcher._running:
            await asyncio.wait(self.dispatcher._running, return_when=asyncio.FIRST_COMPLETED)
            # The callback that frees its place comes with the next turn of the loop.
            await asyncio.sleep(0)

    async def deliveries(self, **filters):
        wanted = {"state": None, "endpoint_id": None, "before": None, "limit": 100} | filters
        return (await self.admin.deliveries(**wanted)).deliveries[::-1]


def run(folder, scenario, **settings):
    async def main(books):
        await scenario(Desk(books, msgspec.structs.replace(SETTINGS, **settings)))

    run_on_books(folder, main)


def is_signed_by(secret, received):
    headers = received.headers
    content = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + received.body
    key = base64.b64decode(secret.removeprefix("whsec_"))
    expected = base64.b64encode(hmac.digest(key, content, hashlib.sha256)).decode()
    return f"v1,{expected}" in headers["webhook-signature"].split(" ")


def subjects(received):
    return sorted(each.json["subject"] for each in received)


def test_events_are_sent_signed_to_the_endpoints_that_want_them(books_folder, receiver):
    async def scenario(desk):
        await desk.tell("before it was made")
        _, secret = await desk.endpoint(f"{receiver.url}/42", tenant_id=42)
        await desk.endpoint(f"{receiver.url}/failed", tenant_id=42, types=["ai.job.failed"])
        await desk.endpoint(f"{receiver.url}/all")
        await desk.tell("a")
        await desk.tell("b", tenant_id="43")
        await desk.tell("c", kind="ai.job.failed")
        await desk.round()
        got = {path: subjects(each for each in receiver.received if each.path == path) for path in
               ("/42", "/failed", "/all")}  # fmt: skip
        assert got == {"/42": ["a", "c"], "/failed": ["c"], "/all": ["a", "b", "c"]}
        first = next(each for each in receiver.received if each.path == "/42")
        assert is_signed_by(secret, first)
        assert first.headers["webhook-id"] == first.json["id"]
        assert first.headers["webhook-timestamp"] == str(desk.books.clock.now_ms() // 1000)
        assert {each.state for each in await desk.deliveries()} == {"delivered"}
        await desk.round()
        assert len(receiver.received) == 6

    run(books_folder, scenario)


def test_a_failed_delivery_is_tried_again_for_a_day_and_is_then_dead(books_folder, receiver):
    async def scenario(desk):
        receiver.answer = lambda _: (500, {})
        endpoint_id, _ = await desk.endpoint(receiver.url)
        await desk.tell("a")
        await desk.round()
        for tries, pause_s in enumerate(RETRY_AFTER_S, 1):
            assert len(receiver.received) == tries
            (waiting,) = await desk.deliveries()
            assert (waiting.state, waiting.attempts, waiting.last_status) == ("waiting", tries, 500)
            desk.books.clock.advance(pause_s * 0.85)
            await desk.round()
            assert len(receiver.received) == tries
            desk.books.clock.advance(pause_s * 0.3)
            await desk.round()
        (dead,) = await desk.deliveries(state="dead")
        assert (dead.attempts, dead.last_problem, dead.next_at) == (len(RETRY_AFTER_S) + 1, "HTTP 500", None)
        assert len({each.headers["webhook-id"] for each in receiver.received}) == 1
        desk.books.clock.advance(7 * 24 * HOUR_S)
        await desk.round()
        assert len(receiver.received) == len(RETRY_AFTER_S) + 1
        # Put right, it is tried anew.
        receiver.answer = lambda _: (204, {})
        assert (await desk.admin.retry_dead(endpoint_id, "admin")).deliveries == 1
        await desk.round()
        (delivered,) = await desk.deliveries()
        assert (delivered.state, delivered.attempts, delivered.last_status) == ("delivered", 1, 204)

    run(books_folder, scenario)


def test_the_pauses_make_a_day_in_all():
    assert 23 * HOUR_S < sum(RETRY_AFTER_S) < 25 * HOUR_S


def test_a_receiver_that_asks_for_time_gets_it(books_folder, receiver):
    async def scenario(desk):
        receiver.answer = lambda _: (429, {"retry-after": "1000"})
        await desk.endpoint(receiver.url)
        await desk.tell("a")
        await desk.round()
        desk.books.clock.advance(999)
        await desk.round()
        assert len(receiver.received) == 1
        desk.books.clock.advance(2)
        await desk.round()
        assert len(receiver.received) == 2

    run(books_folder, scenario)


def test_an_endpoint_that_is_gone_is_switched_off_until_it_is_switched_on(books_folder, receiver):
    async def scenario(desk):
        receiver.answer = lambda _: (410, {})
        endpoint_id, _ = await desk.endpoint(receiver.url)
        await desk.tell("a")
        await desk.round()
        await desk.tell("b")
        await desk.round()
        assert len(receiver.received) == 1
        endpoint = await desk.admin.endpoint(endpoint_id)
        assert (endpoint.is_enabled, endpoint.off_reason) == (False, "it answered 410 Gone")
        assert [each.state for each in await desk.deliveries()] == ["dead"]
        receiver.answer = lambda _: (200, {})
        await desk.admin.change(endpoint_id, WebhookChanges(is_enabled=True), "admin")
        await desk.tell("c")
        await desk.round()
        assert receiver.received[-1].json["subject"] == "c"
        assert (await desk.admin.endpoint(endpoint_id)).off_reason == ""

    run(books_folder, scenario)


def test_after_a_rotation_both_secrets_sign_for_a_day_and_then_the_new_one_alone(books_folder, receiver):
    async def scenario(desk):
        endpoint_id, old = await desk.endpoint(receiver.url)
        new = (await desk.admin.rotate(endpoint_id, "admin")).secret
        assert new != old
        await desk.tell("a")
        await desk.round()
        assert is_signed_by(old, receiver.received[0])
        assert is_signed_by(new, receiver.received[0])
        desk.books.clock.advance(24 * HOUR_S)
        await desk.tell("b")
        await desk.round()
        assert not is_signed_by(old, receiver.received[1])
        assert is_signed_by(new, receiver.received[1])

    run(books_folder, scenario)


def test_a_url_that_a_call_names_gets_that_event_alone_signed_by_its_tenants_secret(books_folder, receiver):
    async def scenario(desk):
        made = await desk.admin.create(WebhookRequest(None, tenant_id=42), "admin")
        await desk.tell("a", webhook_url=f"{receiver.url}/job")
        await desk.tell("b")
        # A tenant without such a secret gets one, which nobody knows before it is rotated.
        await desk.tell("c", "d", tenant_id="43", webhook_url=f"{receiver.url}/other")
        await desk.round()
        assert sorted((each.path, each.json["subject"]) for each in receiver.received) == [
            ("/job", "a"),
            ("/other", "c"),
            ("/other", "d"),
        ]
        assert is_signed_by(made.secret, next(each for each in receiver.received if each.path == "/job"))
        (signer,) = (await desk.admin.endpoints("43")).endpoints
        assert signer.url is None
        secret = (await desk.admin.rotate(signer.endpoint_id, "admin")).secret
        await desk.tell("e", tenant_id="43", webhook_url=f"{receiver.url}/other")
        await desk.round()
        assert is_signed_by(secret, receiver.received[-1])

    run(books_folder, scenario)


def test_an_endpoint_that_does_not_answer_holds_no_other_up(books_folder, receiver):
    async def scenario(desk):
        is_over = threading.Event()

        def answer(received):
            if received.path == "/stuck":
                is_over.wait(20)
            return 200, {}

        receiver.answer = answer
        await desk.endpoint(f"{receiver.url}/stuck", tenant_id=1)
        await desk.endpoint(f"{receiver.url}/well", tenant_id=2)
        await desk.tell(*range(50), tenant_id="1")
        await desk.tell(*range(20), tenant_id="2")
        rounds = asyncio.create_task(desk.round())
        await asyncio.to_thread(receiver.wait_for, 22)
        arrived = [each.path for each in receiver.received]
        assert (arrived.count("/well"), arrived.count("/stuck")) == (20, 2)
        is_over.set()
        await rounds
        assert len(receiver.received) == 70

    run(books_folder, scenario, timeout_s=30)


def test_endpoints_that_fail_leave_room_and_are_asked_by_one_delivery_at_a_time(books_folder):
    async def scenario(desk):
        found = [(f"d{endpoint}.{number}", f"e{endpoint}", True) for endpoint in range(9) for number in range(5)]
        chosen = desk.dispatcher._choose(found, free=8)
        assert sorted(chosen) == [f"d{endpoint}.0" for endpoint in range(4)]
        well = [(f"w{number}", "well", False) for number in range(5)]
        chosen = desk.dispatcher._choose(found + well, free=8)
        assert sorted(chosen) == ["d0.0", "d1.0", "d2.0", "d3.0", "w0", "w1"]

    run(books_folder, scenario)


def test_several_processes_send_each_once(books_folder, receiver):
    async def both(one, other):
        desks = [Desk(one), Desk(other)]
        await desks[0].endpoint(receiver.url)
        for number in range(10):
            await desks[number % 2].tell(*range(number * 10, number * 10 + 10))
        await asyncio.gather(*(desk.round() for desk in desks))
        for desk in desks:
            await desk.round()
        assert sorted(int(each.json["subject"]) for each in receiver.received) == list(range(100))

    async def alone(books):
        await both(books, books)

    if engines.current() == "sqlite":
        run_on_books(books_folder, alone)
    else:
        run_on_two(books_folder, both)


def test_what_a_dead_process_was_trying_is_tried_by_another_and_its_own_result_is_not_heeded(books_folder, receiver):
    async def scenario(desk):
        await desk.endpoint(receiver.url)
        await desk.tell("a")
        await desk.dispatcher.give_out()
        clock, database = desk.books.clock, desk.books.database

        async def claim(owner):
            now, until = utc_text(clock.now_ms()), utc_text(clock.now_ms() + 65_000)

            def work(connection):
                return store.claim(connection, [each for each, *_ in store.due(connection, now, 5)], now, until, owner)

            return await database.write(work)

        async def end(claimed, owner):
            result = Result(500, "HTTP 500")
            return await database.write(
                lambda connection: store.end(connection, claimed, owner, result, now="x", next_at=None)
            )

        (first,) = await claim("gone")
        await desk.round()
        assert receiver.received == []
        clock.advance(66)
        (second,) = await claim("another")
        assert (first.attempt, second.attempt) == (1, 2)
        assert not await end(first, "gone")
        assert not await end(first, "another")
        clock.advance(66)
        await desk.round()
        assert len(receiver.received) == 1
        (delivered,) = await desk.deliveries()
        assert (delivered.state, delivered.attempts) == ("delivered", 3)
        assert not await end(second, "another")

    run(books_folder, scenario)


def test_deliveries_are_dropped_retried_and_forgotten(books_folder, receiver):
    async def scenario(desk):
        receiver.answer = lambda _: (500, {})
        endpoint_id, _ = await desk.endpoint(receiver.url)
        await desk.tell("a", "b")
        await desk.round()
        first, second = await desk.deliveries()
        await desk.admin.drop(first.delivery_id, "admin")
        receiver.answer = lambda _: (200, {})
        await desk.admin.retry(second.delivery_id, "admin")
        await desk.round()
        assert [(each.event_id, each.state) for each in await desk.deliveries()] == [(second.event_id, "delivered")]
        assert await desk.admin.forget_old() == 0
        desk.books.clock.advance(31 * 24 * HOUR_S)
        assert await desk.admin.forget_old() == 1
        await desk.tell("c")
        await desk.dispatcher.give_out()
        await desk.admin.delete(endpoint_id, "admin")
        await desk.round()
        assert await desk.deliveries() == []

    run(books_folder, scenario)


def test_what_waits_for_an_endpoint_that_does_not_come_back_is_dead_in_time(books_folder, receiver):
    """More may come than the one delivery at a time that asks an endpoint that fails."""

    async def scenario(desk):
        well, _ = await desk.endpoint(f"{receiver.url}/well", tenant_id=1)
        failing, _ = await desk.endpoint(f"{receiver.url}/failing", tenant_id=2)
        receiver.answer = lambda received: (500 if received.path == "/failing" else 200, {})
        await desk.tell("a", tenant_id="2")
        await desk.round()
        await desk.tell("b", tenant_id="2")
        await desk.tell("c", tenant_id="1")
        await desk.dispatcher.give_out()
        desk.books.clock.advance(71 * HOUR_S)
        await desk.admin.forget_old()
        assert {each.state for each in await desk.deliveries()} == {"waiting"}
        desk.books.clock.advance(2 * HOUR_S)
        await desk.admin.forget_old()
        dead = await desk.deliveries(endpoint_id=failing, state="dead")
        assert len(dead) == 2
        assert dead[1].last_problem.startswith("its endpoint failed or was switched off for three days")
        # Nobody was there to send it, which is not its endpoint's doing.
        assert [each.state for each in await desk.deliveries(endpoint_id=well)] == ["waiting"]
        assert (await desk.admin.retry_dead(failing, "admin")).deliveries == 2
        await desk.admin.forget_old()
        assert await desk.deliveries(state="dead") == []

    run(books_folder, scenario)


def test_a_secret_that_cannot_be_opened_is_a_failure_that_says_so(books_folder, receiver):
    async def scenario(desk):
        await desk.endpoint(receiver.url)
        await desk.tell("a")
        desk.dispatcher._vault = Vault(b"w" * 32)
        await desk.round()
        (delivery,) = await desk.deliveries()
        assert (delivery.state, delivery.attempts, delivery.last_status) == ("waiting", 1, None)
        assert delivery.last_problem.startswith("its secret was sealed under another pepper")
        assert receiver.received == []

    run(books_folder, scenario)


def test_a_test_event_is_sent_to_its_endpoint_alone(books_folder, receiver):
    async def scenario(desk):
        tested, secret = await desk.endpoint(f"{receiver.url}/tested", tenant_id=42)
        await desk.endpoint(f"{receiver.url}/other")
        sent = await desk.admin.send_test(tested, "admin")
        assert (sent.state, sent.event_type, sent.tenant_id) == ("waiting", "ai.webhook.test", 42)
        await desk.round()
        (received,) = receiver.received
        assert (received.path, received.json["subject"]) == ("/tested", tested)
        assert received.json["id"] == sent.event_id
        assert is_signed_by(secret, received)
        assert (await desk.admin.delivery(sent.delivery_id)).state == "delivered"
        with pytest.raises(NotFound):
            await desk.admin.delivery("whd_unknown")

    run(books_folder, scenario)


def test_what_nothing_is_sent_to_is_not_tested(books_folder):
    async def scenario(desk):
        off, _ = await desk.endpoint("https://hooks.example.com")
        await desk.admin.change(off, WebhookChanges(is_enabled=False), "admin")
        signer, _ = await desk.endpoint(None, tenant_id=42)
        for endpoint_id, message in ((off, "is switched off"), (signer, "has none itself")):
            with pytest.raises(InvalidRequest, match=message):
                await desk.admin.send_test(endpoint_id, "admin")
        with pytest.raises(NotFound):
            await desk.admin.send_test("whe_unknown", "admin")
        assert await desk.deliveries() == []

    run(books_folder, scenario)


def test_secrets_are_nowhere_in_the_database(books_folder, receiver):
    secrets = []

    async def scenario(desk):
        endpoint_id, secret = await desk.endpoint(f"{receiver.url}/?token=hush-4711")
        secrets.extend([secret, (await desk.admin.rotate(endpoint_id, "admin")).secret])
        await desk.tell("a")
        await desk.round()

    run(books_folder, scenario)
    stored = engines.stored_bytes(books_folder / "books.db")
    for secret in secrets:
        raw = base64.b64decode(secret.removeprefix("whsec_"))
        for form in (secret.encode(), raw, base64.b64encode(raw), raw.hex().encode()):
            assert form not in stored


def test_pauses_are_spread(monkeypatch):
    random.seed(7)
    clock = FakeClock()
    found = {Dispatcher._next_at(1, Result(500, ""), clock.now_ms()) for _ in range(50)}
    assert len(found) > 20


def test_an_idle_dispatcher_reads_once_a_round_and_writes_nothing(books_folder, receiver):
    async def scenario(desk):
        await desk.endpoint(receiver.url)
        await desk.tell("a")
        await desk.round()
        counting = Counting(desk.books.database, desk.dispatcher)
        running = asyncio.create_task(desk.dispatcher.keep_delivering())
        await counting.until_rounds(5)
        assert (counting.reads, counting.writes) == (5, 0)
        await desk.tell("b")
        await counting.until(lambda: len(receiver.received) == 2)
        running.cancel()
        await asyncio.wait({running})
        await desk.dispatcher.finish()

    run(books_folder, scenario)


class Counting:
    """Counts what a dispatcher asks of its database, and the rounds that it rests after."""

    def __init__(self, database, dispatcher):
        self.reads = self.writes = self.rounds = 0
        self._database = database
        self._pause = dispatcher._pause
        self._has_rested = asyncio.Event()
        dispatcher._database, dispatcher._pause = self, self._rest

    async def until_rounds(self, rounds):
        await self.until(lambda: self.rounds == rounds)

    async def until(self, is_so):
        async with asyncio.timeout(20):
            while not is_so():
                self._has_rested.clear()
                await self._has_rested.wait()

    async def _rest(self):
        self.rounds += 1
        self._has_rested.set()
        await self._pause()

    async def read(self, work):
        self.reads += 1
        return await self._database.read(work)

    async def write(self, work):
        self.writes += 1
        return await self._database.write(work)

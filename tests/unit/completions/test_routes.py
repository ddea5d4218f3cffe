import asyncio

import pytest

from harness.books import run_on_books
from harness.providers import API_KEY, SHOP, Collected, Desk, Provider, body_of
from tollhouse.completions.routes import CompleteRoute
from tollhouse.errors import InvalidRequest, Unauthorized
from tollhouse.keys.service import Keyring

AUTHORIZATION = (b"authorization", f"Bearer {API_KEY}".encode())


def run_on_route(tmp_path, scenario):
    async def on_books(books):
        await books.set_tenant(cap=10_000_000)
        desk = Desk(books, {"small": Provider()})
        keyring = Keyring(books.database, b"pepper")
        keyring.trust(API_KEY, SHOP)
        await scenario(CompleteRoute(keyring, desk.planner, desk.pipeline))

    run_on_books(tmp_path, on_books)


def test_a_request_is_identified_by_its_headers_alone(tmp_path):
    async def scenario(route):
        caller = route.identify([(b"host", b"x"), AUTHORIZATION, (b"idempotency-key", b"order-7")])
        assert (caller.principal, caller.api_key, caller.idempotency_key) == (SHOP, API_KEY, "order-7")
        assert route.identify([AUTHORIZATION]).idempotency_key is None
        for headers in ([], [(b"authorization", b"Bearer th_wrong")]):
            with pytest.raises(Unauthorized):
                route.identify(headers)
        with pytest.raises(InvalidRequest, match="Idempotency-Key: expected once"):
            route.identify([AUTHORIZATION, (b"idempotency-key", b"a"), (b"idempotency-key", b"a")])

    run_on_route(tmp_path, scenario)


def test_a_call_is_served_from_its_bytes(tmp_path):
    async def scenario(route):
        caller = route.identify([AUTHORIZATION])
        answer = await route.serve(caller, body_of(), "req_1", Collected())
        assert answer.request_id == "req_1"
        assert b'"content":"four"' in answer.body
        with pytest.raises(InvalidRequest, match="max_token: unknown field"):
            await route.serve(caller, body_of(max_token=1), "req_2", Collected())

    run_on_route(tmp_path, scenario)


def test_an_idempotency_key_holds_from_one_request_to_the_next(tmp_path):
    async def scenario(route):
        caller = route.identify([AUTHORIZATION, (b"idempotency-key", b"\xe9t\xe9")])
        first = await route.serve(caller, body_of(), "req_1", Collected())
        again = await asyncio.gather(
            *(route.serve(caller, body_of(), f"req_{number}", Collected()) for number in (2, 3))
        )
        assert {(answer.body, answer.request_id, answer.replayed) for answer in again} == {(first.body, "req_1", True)}

    run_on_route(tmp_path, scenario)

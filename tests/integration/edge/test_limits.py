"""Limits are kept for each tenant, and only those who may act for a tenant can use up its allowance."""

import asyncio
from collections import Counter

import pytest

from harness.calls import body_for
from harness.load import Outcome, all_at_once, post
from harness.service import TenantId
from integration.edge.conftest import Front

pytestmark = pytest.mark.engine("postgresql")

BURST = 20
# Of requests that take a few seconds to send, some come after the bucket has got a few more.
REFILLED = 15


def calls(tenant: TenantId, key: str, count: int, **headers: str) -> list[bytes]:
    return [post(body_for(tenant, model="m"), key, **headers)] * count


def send(front: Front, *groups: list[bytes]) -> list[list[Outcome]]:
    """Send groups of requests at the same time; return what became of each group."""
    outcomes = asyncio.run(all_at_once(front.edge.port, [each for group in groups for each in group]))
    by_group = []
    for group in groups:
        by_group.append(outcomes[: len(group)])
        outcomes = outcomes[len(group) :]
    return by_group


def statuses(outcomes: list[Outcome]) -> Counter[int | None]:
    return Counter(outcome.status for outcome in outcomes)


def test_a_tenant_far_beyond_its_rate_does_not_touch_another(front: Front):
    loud, loud_key = front.tenant_with_key()
    quiet, quiet_key = front.tenant_with_key()

    of_loud, of_quiet = send(front, calls(loud, loud_key, 250), calls(quiet, quiet_key, BURST))

    counted = statuses(of_loud)
    assert set(counted) == {200, 429}
    assert BURST <= counted[200] <= BURST + REFILLED
    assert statuses(of_quiet) == {200: BURST}
    assert len(front.one.rows(tenant_id=loud)) == counted[200]
    assert len(front.one.rows(tenant_id=quiet)) == BURST
    refused = next(outcome for outcome in of_loud if outcome.status == 429)
    assert refused.json["error"] == "ai_rate_limited"
    assert set(refused.json) == {"error", "message", "request_id"}
    assert refused.retry_after == "1"


def test_strangers_use_up_nothing(front: Front):
    tenant, key = front.tenant_with_key()
    _, other_key = front.tenant_with_key()
    claims = {"x_tenant_id": str(tenant), "x_tollhouse_tenant": str(tenant)}

    unknown, foreign = send(front, calls(tenant, "th_unknown", 60, **claims), calls(tenant, other_key, 60, **claims))
    (own,) = send(front, calls(tenant, key, BURST))

    assert statuses(unknown) == {401: 60}
    assert unknown[0].json["error"] == "ai_unauthorized"
    assert statuses(foreign) == {403: 60}
    assert foreign[0].json["error"] == "ai_tenant_forbidden"
    assert statuses(own) == {200: BURST}


def test_what_a_client_says_of_the_edges_own_headers_counts_for_nothing(front: Front):
    victim, victim_key = front.tenant_with_key()
    tenant, key = front.tenant_with_key()

    # Under the victim's name, and with a key whose requests the edge does not count at all.
    (spoofed,) = send(front, calls(tenant, key, 60, x_tollhouse_tenant=str(victim)))
    (uncounted,) = send(front, calls(tenant, front.key, 40, x_tollhouse_tenant=str(victim)))
    (own,) = send(front, calls(victim, victim_key, BURST))

    assert BURST <= statuses(spoofed)[200] <= BURST + REFILLED
    assert statuses(uncounted) == {200: 40}
    assert statuses(own) == {200: BURST}


def test_a_key_of_several_tenants_is_counted_by_the_tenant_it_names(front: Front):
    tenant, key = front.tenant_with_key()

    (named,) = send(front, calls(tenant, front.key, 60, x_tenant_id=str(tenant)))
    (own,) = send(front, calls(tenant, key, 30))

    assert BURST <= statuses(named)[200] <= BURST + REFILLED
    # It is one allowance.
    assert statuses(own)[200] <= REFILLED


def test_a_tenant_named_twice_or_not_at_all_is_nobody(front: Front):
    tenant, key = front.tenant_with_key()
    call = post(body_for(tenant, model="m"), key, x_tenant_id=str(tenant))
    twice = call.replace(b"x-tenant-id:", b"x-tenant-id: 1\r\nx-tenant-id:", 1)

    (outcomes,) = send(front, [twice, post(body_for(tenant, model="m"), key, x_tenant_id="x" * 65)])

    assert statuses(outcomes) == {403: 2}


def test_reading_has_an_allowance_of_its_own(front: Front):
    tenant, key = front.tenant_with_key()
    read = f"GET /ai/usage?tenant_id={tenant}&period=2026-04 HTTP/1.1\r\nhost: a\r\nauthorization: Bearer {key}\r\n\r\n"

    (reads,) = send(front, [read.encode()] * 60)
    (made,) = send(front, calls(tenant, key, BURST))

    assert set(statuses(reads)) == {200, 429}
    assert statuses(made) == {200: BURST}


@pytest.mark.parametrize(
    ("path", "where"),
    [
        ("/v1/chat/completions", lambda body: (body["error"]["type"], body["error"]["code"])),
        ("/v1/messages", lambda body: (body["error"]["type"], body["error"]["code"])),
        ("/v1/models/m:generateContent", lambda body: (body["error"]["status"], body["error"]["details"][0]["reason"])),
        (
            "/v1beta/models/m:embedContent",
            lambda body: (body["error"]["status"], body["error"]["details"][0]["reason"]),
        ),
    ],
)
def test_refusals_have_the_shape_of_the_api_that_was_called(front: Front, path: str, where):
    kind, code = where(front.edge.request("POST", path, {}, x_api_key="th_unknown").json)

    assert code == "ai_unauthorized"
    assert kind in {"authentication_error", "UNAUTHENTICATED"}


def test_a_refusal_names_the_scheme_once_and_its_request(front: Front):
    reply = front.edge.request("POST", "/ai/complete", {}, x_request_id='from"the client')

    assert reply.code == "ai_unauthorized"
    assert reply.headers["www-authenticate"] == "Bearer"

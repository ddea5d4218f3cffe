import pytest

from tollhouse.errors import Forbidden, InvalidRequest, TenantForbidden, Unauthorized
from tollhouse.events.model import Selection
from tollhouse.keys.model import Principal
from tollhouse.notifications.grant import Grant
from tollhouse.notifications.request import grant_of, read_request
from tollhouse.notifications.tokens import EventTokens

BOUND = Grant("key_1", frozenset({"42", "43"}))


@pytest.mark.parametrize(
    ("query", "headers", "after"),
    [
        (b"", [], None),
        (b"after=0", [], 0),
        (b"after=17", [], 17),
        (b"after=17", [(b"last-event-id", b"19")], 19),
        (b"", [(b"last-event-id", b"19")], 19),
    ],
)
def test_a_client_that_comes_back_says_from_where(query, headers, after):
    assert read_request(headers, query).after == after


@pytest.mark.parametrize(
    ("accept", "wants_json"),
    [
        (b"*/*", False),
        (b"text/event-stream", False),
        (b"application/json", True),
        (b"application/json, text/event-stream", False),
    ],
)
def test_a_long_poll_is_for_those_who_take_json_alone(accept, wants_json):
    assert read_request([(b"accept", accept)], b"").wants_json == wants_json
    assert not read_request([], b"").wants_json


@pytest.mark.parametrize(
    "query", [b"after=", b"after=1&after=2", b"after=%C3%A9", b"after=1" + b"0" * 18, b"x", b"a=\xff", b"types=a,,b"]
)
def test_what_cannot_be_meant_is_refused(query):
    with pytest.raises(InvalidRequest):
        read_request([], query)


def test_a_header_that_comes_twice_is_refused():
    with pytest.raises(InvalidRequest, match="last-event-id was sent more than once"):
        read_request([(b"last-event-id", b"1"), (b"last-event-id", b"2")], b"")


def test_who_may_follow_which():
    assert BOUND.select(None, None) == Selection(frozenset({"42", "43"}))
    assert BOUND.select("42", "7", frozenset({"a"})) == Selection(frozenset({"42"}), "7", frozenset({"a"}))
    with pytest.raises(TenantForbidden, match="may not follow tenant 44"):
        BOUND.select("44", None)
    of_user = Grant("key_1", frozenset({"42"}), "101")
    assert of_user.select(None, None) == of_user.select("42", "101") == Selection(frozenset({"42"}), "101")
    with pytest.raises(Forbidden, match="not for the events of user 102"):
        of_user.select(None, "102")
    admin = Grant.of(Principal("admin", "admin", "super-admin", None))
    assert admin.select(None, None) == Selection(has_untenanted=True)
    assert not Grant.of(Principal("k", "shop", "service", None)).select(None, None).has_untenanted


def test_a_key_or_a_token_comes_in_the_header_and_a_token_in_the_query_too(keyring, clock):
    tokens = EventTokens(keyring, clock)
    token = tokens.make("key_1", "42", None, clock.now_ms() + 5000)

    def tenants(query=b"", **headers):
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        return grant_of(raw, read_request(raw, query), keyring, tokens).tenants

    assert tenants(authorization="Bearer the-key") == {"42", "43"}
    assert tenants(authorization=f"Bearer {token}") == tenants(f"token={token}".encode()) == {"42"}
    for refused in ({}, {"authorization": "Bearer x"}, {"query": b"token=the-key"}):
        with pytest.raises(Unauthorized):
            tenants(**refused)

"""What a request to follow events says, in its head."""

from collections.abc import Sequence
from urllib.parse import parse_qsl

import msgspec

from tollhouse.errors import InvalidRequest
from tollhouse.keys.bearer import client_key
from tollhouse.keys.service import Keyring
from tollhouse.kit.headers import single_value
from tollhouse.notifications.grant import Grant
from tollhouse.notifications.tokens import EventTokens, is_token

RawHeaders = Sequence[tuple[bytes, bytes]]
_KNOWN = ("tenant_id", "user_id", "types", "after", "token", "wait_s", "limit")
_MOST_TYPES = 50
_MOST_DIGITS = 18
# Below the minute after which most proxies give up on an answer.
_MOST_WAIT_S = 50.0
_MOST_EVENTS = 500


class FollowRequest(msgspec.Struct, frozen=True):
    """What is to be followed, and from where.

    Attributes:
        after: the position after which to begin; None: from now on.
        wait_s: of a long poll, how long to wait for a first event.
        limit: of a long poll, how many events to return at most.
        wants_json: whether it is a long poll rather than a stream.
    """

    tenant_id: str | None
    user_id: str | None
    types: frozenset[str] | None
    after: int | None
    token: str | None
    wait_s: float
    limit: int
    wants_json: bool


def read_request(headers: RawHeaders, query: bytes) -> FollowRequest:
    """Read a request; raises InvalidRequest with the parameter and what was expected.

    Args:
        headers: as ASGI gives them, names in lower case.
        query: as it was sent, without the question mark.
    """
    try:
        given = parse_qsl(query.decode("ascii"), keep_blank_values=True, strict_parsing=bool(query), max_num_fields=20)
        last = single_value(headers, b"last-event-id")
    except ValueError as error:
        raise InvalidRequest(f"the query cannot be read: {error}") from None
    parameters = dict(given)
    if len(parameters) < len(given):
        raise InvalidRequest("the query has a parameter more than once; expected each once")
    unknown = [name for name in parameters if name not in _KNOWN]
    if unknown:
        raise InvalidRequest(f"{unknown[0][:64]}: unknown parameter; known are {', '.join(_KNOWN)}")
    # A browser repeats the address it began with, and says in the header how far it has come since.
    after = parameters.get("after") if last is None else last.decode("latin-1")
    accept = b", ".join(value for name, value in headers if name == b"accept")
    return FollowRequest(
        parameters.get("tenant_id"),
        parameters.get("user_id"),
        _types(parameters.get("types")),
        None if after is None else _position(after, "after" if last is None else "Last-Event-ID"),
        parameters.get("token"),
        _number("wait_s", parameters.get("wait_s", "25"), _MOST_WAIT_S),
        int(_number("limit", parameters.get("limit", "100"), _MOST_EVENTS, least=1)),
        b"application/json" in accept and b"text/event-stream" not in accept,
    )


def grant_of(headers: RawHeaders, request: FollowRequest, keyring: Keyring, tokens: EventTokens) -> Grant:
    """Return what the sender of a request may follow, by a token in the query or a key or token in a header.

    Raises:
        Unauthorized: there is none, or it is not valid.
    """
    if request.token is not None:
        return tokens.read(request.token)
    key = client_key(headers)
    return tokens.read(key) if is_token(key) else Grant.of(keyring.identify(key))


def _types(text: str | None) -> frozenset[str] | None:
    if text is None:
        return None
    types = frozenset(text.split(","))
    if len(types) > _MOST_TYPES or not all(each.isprintable() and 0 < len(each) <= 128 for each in types):
        raise InvalidRequest(f"types: expected up to {_MOST_TYPES} types of events, with commas in between")
    return types


def _position(text: str, name: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > _MOST_DIGITS:
        raise InvalidRequest(f"{name}: expected the position of an event, a whole number")
    return int(text)


def _number(name: str, text: str, most: float, least: float = 0) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1
    if not least <= number <= most:
        raise InvalidRequest(f"{name}: expected a number from {least:g} to {most:g}")
    return number

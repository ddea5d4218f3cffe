"""The addresses of completion calls: from a request's head and body to its answer, without a framework in between."""

import hashlib
from collections.abc import Awaitable, Mapping, Sequence
from typing import Protocol
from urllib.parse import unquote

import msgspec

from tollhouse.completions.call import Answer, Call, Planner, Whose
from tollhouse.completions.counting import CountingApi
from tollhouse.completions.decoding import decode_body
from tollhouse.completions.native import stream_error
from tollhouse.completions.pipeline import Pipeline
from tollhouse.completions.relay import Sink
from tollhouse.completions.wire.base import Api
from tollhouse.errors import InvalidRequest, TollhouseError
from tollhouse.keys.bearer import bearer_key, client_key, key_of, query_key, several_keys
from tollhouse.keys.charging import CHARGED_KEY_HEADER, SECRET_PURPOSE, Accounts
from tollhouse.keys.model import Principal
from tollhouse.keys.service import Keyring
from tollhouse.kit.headers import RepeatedHeader, single_values
from tollhouse.kit.validation import MAX_ID, MAX_SLUG, printable
from tollhouse.limits.headers import limit_lines
from tollhouse.limits.model import Standing

COMPLETE_PATH = "/ai/complete"
_COUNT_PATH = b"/v1/messages/count_tokens"
# Google's own client takes either version of its API, by its configuration.
GEMINI_PREFIXES = (b"/v1beta/models/", b"/v1/models/", b"/v1alpha/models/")

RawHeaders = Sequence[tuple[bytes, bytes]]


class Caller(msgspec.Struct, frozen=True, gc=False):
    """What a request's head says: who calls, and under which idempotency key.

    Attributes:
        headers: all of them, where a client's own API needs more than that; names in lower case.
        timeout: the deadline that the head sets, as it was sent.
        charged: on whose account it is, where that is not the caller's.
    """

    principal: Principal
    api_key: str
    idempotency_key: str | None
    headers: Mapping[str, str] = {}
    timeout: str | None = None
    charged: Principal | None = None


class Route(Protocol):
    """One address."""

    def identify(self, headers: RawHeaders) -> Caller:
        """Read a request's headers, names in lower case, before its body; raises Unauthorized or InvalidRequest."""

    def serve(self, caller: Caller, body: bytes, request_id: str, sink: Sink) -> Awaitable[Answer | None]:
        """Check a call, and return what serves it; both raise TollhouseError for what the caller is told instead.

        Args:
            sink: takes the answer if it is wanted in events; the result is None then.
        """

    def error(self, error: TollhouseError, request_id: str) -> bytes | None:
        """Write an error in the address's own shape; None where that is Tollhouse's."""

    def stream_error(self, error: TollhouseError, request_id: str) -> bytes:
        """Write the event that ends a stream which fails after it began."""

    def header_lines(self, request_id: str, standing: Sequence[Standing]) -> bytes:
        """Return what the head of every answer says besides ``X-Request-Id``: where the call's limits stand."""


class CompleteRoute:
    """``POST /ai/complete``."""

    def __init__(self, keyring: Keyring, planner: Planner, pipeline: Pipeline) -> None:
        self._keyring = keyring
        self._accounts = Accounts(keyring.derive(SECRET_PURPOSE))
        self._planner = planner
        self._pipeline = pipeline

    def identify(self, headers: RawHeaders) -> Caller:
        try:
            authorization, idempotency_key, timeout, account = single_values(headers, _OF_COMPLETE)
        except RepeatedHeader as error:
            if error.name == "authorization":
                raise several_keys() from None
            # Who calls is found out before anything else is told.
            self._keyring.identify(bearer_key(headers))
            raise InvalidRequest(f"{error.name.title()}: expected once") from None
        api_key = key_of(authorization)
        principal = self._keyring.identify(api_key)
        key = None if idempotency_key is None else idempotency_key.decode("latin-1")
        return Caller(
            principal,
            api_key,
            key,
            timeout=None if timeout is None else timeout.decode("latin-1"),
            charged=None if account is None else self._accounts.charged(principal, account, key),
        )

    def serve(self, caller: Caller, body: bytes, request_id: str, sink: Sink) -> Awaitable[Answer | None]:
        principal = caller.charged or caller.principal
        call = self._planner.plan(
            decode_body(body), principal, caller.api_key, caller.idempotency_key, request_id, caller.timeout
        )
        return self._pipeline.complete(call, sink)

    def error(self, error: TollhouseError, request_id: str) -> bytes | None:  # noqa: ARG002 - Tollhouse's own shape
        return None

    def stream_error(self, error: TollhouseError, request_id: str) -> bytes:
        return stream_error(error, request_id)

    def header_lines(self, request_id: str, standing: Sequence[Standing]) -> bytes:  # noqa: ARG002 - it is there already
        return limit_lines(standing, "", 0)


class ApiRoute:
    """An address of an existing client's API.

    Args:
        path_model: the model, for an API whose path names it.
        is_stream: the path says that the answer is wanted in events.
    """

    def __init__(
        self,
        api: Api,
        keyring: Keyring,
        planner: Planner,
        pipeline: Pipeline,
        *,
        path_model: str | None = None,
        query_key: str | None = None,
        is_stream: bool = False,
    ) -> None:
        self._api = api
        self._keyring = keyring
        self._planner = planner
        self._pipeline = pipeline
        self._path_model = path_model
        self._query_key = query_key
        self._is_stream = is_stream

    def identify(self, headers: RawHeaders) -> Caller:
        api_key = self._query_key or client_key(headers)
        principal = self._keyring.identify(api_key)
        named = _named(headers)
        return Caller(principal, api_key, named.get("idempotency-key"), named)

    def serve(self, caller: Caller, body: bytes, request_id: str, sink: Sink) -> Awaitable[Answer | None]:
        return self._pipeline.complete(self._plan(caller, body, request_id), sink)

    def _plan(self, caller: Caller, body: bytes, request_id: str) -> Call:
        asked = self._api.read(body, self._path_model, is_stream=self._is_stream)
        headers = caller.headers
        user_id = _given(headers, "X-User-Id", MAX_ID)
        if user_id is None and asked.user is not None:
            user_id = _user_id(asked.user)
        whose = Whose(
            tenant_id=_given(headers, "X-Tenant-Id", MAX_ID),
            user_id=user_id or "",
            feature_slug=_given(headers, "X-Feature-Slug", MAX_SLUG),
        )
        return self._planner.plan_api(
            self._api, asked, body, whose, caller.principal, caller.api_key, headers, request_id
        )

    def error(self, error: TollhouseError, request_id: str) -> bytes | None:
        return self._api.error(error, request_id)

    def stream_error(self, error: TollhouseError, request_id: str) -> bytes:
        return self._api.stream_error(error, request_id)

    def header_lines(self, request_id: str, standing: Sequence[Standing]) -> bytes:
        if self._api.name == "messages":
            # Anthropic's clients show a request's id from a header of another name than OpenAI's.
            lines = b"request-id: %b\r\n" % request_id.encode()
            return lines + limit_lines(standing, "anthropic", self._pipeline.now_ms()) if standing else lines
        return limit_lines(standing, "" if self._api.name == "gemini" else "openai", 0)


class CountRoute(ApiRoute):
    """``POST /v1/messages/count_tokens``: passes the gate as a call does, and costs nothing."""

    def serve(self, caller: Caller, body: bytes, request_id: str, sink: Sink) -> Awaitable[Answer | None]:  # noqa: ARG002
        return self._pipeline.count_tokens(self._plan(caller, body, request_id))


class UnservedStreamRoute(ApiRoute):
    """Google's ``:streamGenerateContent`` without ``alt=sse``: one JSON array that grows, which is not served."""

    def _plan(self, caller: Caller, body: bytes, request_id: str) -> Call:  # noqa: ARG002 - refused whatever it is
        raise InvalidRequest("alt: expected sse in the query, as streams are served as events alone")


class Routes:
    """Finds the route of a POST's target.

    Args:
        apis: by path, those whose path names no model.
        gemini: by the verb after the model's name: the API, and whether it answers in events.
    """

    def __init__(
        self,
        keyring: Keyring,
        planner: Planner,
        pipeline: Pipeline,
        apis: Mapping[str, Api],
        gemini: Mapping[str, tuple[Api, bool]],
    ) -> None:
        self._parts = (keyring, planner, pipeline)
        self._gemini = gemini
        self._by_path: dict[bytes, Route] = {path.encode(): ApiRoute(api, *self._parts) for path, api in apis.items()}
        self._by_path[COMPLETE_PATH.encode()] = CompleteRoute(*self._parts)
        self._by_path[_COUNT_PATH] = CountRoute(CountingApi(), *self._parts)

    def find(self, target: bytes) -> Route | None:
        """Return the route of a request's target, or None where completions have no such address."""
        route = self._by_path.get(target)
        if route is not None:
            return route
        path, _, query = target.partition(b"?")
        route = self._by_path.get(path)
        if route is None and path.startswith(GEMINI_PREFIXES):
            route = self._find_gemini(path.split(b"/", 3)[3], query)
        return route

    def _find_gemini(self, name: bytes, query: bytes) -> Route | None:
        model, _, verb = unquote(name.decode("latin-1")).rpartition(":")
        found = self._gemini.get(verb)
        if found is None or not model:
            return None
        api, is_stream = found
        route = UnservedStreamRoute if is_stream and _SSE not in query.split(b"&") else ApiRoute
        return route(api, *self._parts, path_model=model, query_key=query_key(query), is_stream=is_stream)


def _named(headers: RawHeaders) -> dict[str, str]:
    """Return headers by name; raises InvalidRequest where one that decides something is given twice."""
    named: dict[str, str] = {}
    for name, value in headers:
        key = name.decode("latin-1")
        if key in _DECIDING and key in named:
            raise InvalidRequest(f"{key}: expected once")
        named[key] = value.decode("latin-1")
    return named


_OF_COMPLETE = (b"authorization", b"idempotency-key", b"x-request-timeout", CHARGED_KEY_HEADER.lower().encode())
_SSE = b"alt=sse"
_DECIDING = frozenset({"idempotency-key", "x-tenant-id", "x-user-id", "x-feature-slug", "x-request-timeout"})


def _given(headers: Mapping[str, str], name: str, max_length: int) -> str | None:
    """Return what a header says, if it was sent; raises InvalidRequest."""
    text = headers.get(name.lower())
    if text is None:
        return None
    try:
        return printable(name, text, max_length)
    except ValueError as error:
        raise InvalidRequest(str(error)) from None


def _user_id(text: str) -> str:
    """Return the id under which a client's own name of a user is entered: a digest, where it is no id of ours.

    Some clients send longer names than any id here may have, and would not be unchanged clients if they were refused.
    """
    if 0 < len(text) <= MAX_ID and text.isprintable():
        return text
    return "sha256-" + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:40]

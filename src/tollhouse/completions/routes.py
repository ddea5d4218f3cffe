"""``POST /ai/complete``, as a raw ASGI handler: the framework's share of a call would cost more than the call."""

from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any

from tollhouse.completions.call import Answer, Planner
from tollhouse.completions.decoding import decode_body
from tollhouse.completions.pipeline import Pipeline
from tollhouse.errors import InvalidRequest, RequestTooLarge
from tollhouse.keys.bearer import bearer_key
from tollhouse.keys.service import Keyring

Headers = Iterable[tuple[bytes, bytes]]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]


class ClientGone(Exception):
    """The caller left before it had sent its request; there is nobody to answer."""


class CompleteRoute:
    """Reads, identifies and checks a request, and has the pipeline serve it."""

    def __init__(self, keyring: Keyring, planner: Planner, pipeline: Pipeline, *, max_body_bytes: int) -> None:
        self._keyring = keyring
        self._planner = planner
        self._pipeline = pipeline
        self._max_body_bytes = max_body_bytes

    async def serve(self, headers: Headers, receive: Receive, request_id: str) -> Answer:
        """Serve one request; raises TollhouseError for what the caller is told instead, ClientGone if it left.

        The key is looked at before the body, so that strangers cannot have bodies read.
        """
        api_key = bearer_key(headers)
        principal = self._keyring.identify(api_key)
        idempotency_key = self._check_headers(headers)
        body = decode_body(await self._read(receive))
        call = self._planner.plan(body, principal, api_key, idempotency_key, request_id)
        return await self._pipeline.complete(call)

    def _check_headers(self, headers: Headers) -> str | None:
        """Return the idempotency key; raises RequestTooLarge for a body that announces itself as too long."""
        idempotency_key = None
        for name, value in headers:
            if name == b"idempotency-key":
                if idempotency_key is not None:
                    raise InvalidRequest("Idempotency-Key: expected once")
                idempotency_key = value.decode("latin-1")
            elif name == b"content-length" and (len(value) > len("1000000000000") or int(value) > self._max_body_bytes):
                raise self._too_large()
        return idempotency_key

    async def _read(self, receive: Receive) -> bytes:
        """Return the whole body, bounded in size; the server bounds the time it may take."""
        message = await receive()
        if message["type"] == "http.request" and not message.get("more_body"):
            body = message.get("body", b"")
            if len(body) > self._max_body_bytes:
                raise self._too_large()
            return bytes(body)
        return await self._read_parts(message, receive)

    async def _read_parts(self, message: MutableMapping[str, Any], receive: Receive) -> bytes:
        parts, size = [], 0
        while True:
            if message["type"] != "http.request":
                raise ClientGone
            part = message.get("body", b"")
            size += len(part)
            if size > self._max_body_bytes:
                raise self._too_large()
            parts.append(part)
            if not message.get("more_body"):
                return b"".join(parts)
            message = await receive()

    def _too_large(self) -> RequestTooLarge:
        return RequestTooLarge(f"the body is over the limit of {self._max_body_bytes} bytes")

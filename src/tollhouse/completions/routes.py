"""``POST /ai/complete``: from a request's headers and body to its answer, without a framework in between."""

from collections.abc import Awaitable, Sequence

import msgspec

from tollhouse.completions.call import Answer, Planner
from tollhouse.completions.decoding import decode_body
from tollhouse.completions.pipeline import Pipeline
from tollhouse.errors import InvalidRequest
from tollhouse.keys.bearer import bearer_key
from tollhouse.keys.model import Principal
from tollhouse.keys.service import Keyring
from tollhouse.kit.headers import single_value

COMPLETE_PATH = "/ai/complete"


class Caller(msgspec.Struct, frozen=True, gc=False):
    """What a request's headers say: who calls, and under which idempotency key."""

    principal: Principal
    api_key: str
    idempotency_key: str | None


class CompleteRoute:
    """Identifies and checks requests, and has the pipeline serve them."""

    def __init__(self, keyring: Keyring, planner: Planner, pipeline: Pipeline) -> None:
        self._keyring = keyring
        self._planner = planner
        self._pipeline = pipeline

    def identify(self, headers: Sequence[tuple[bytes, bytes]]) -> Caller:
        """Read a request's headers, names in lower case, before its body; raises Unauthorized or InvalidRequest."""
        api_key = bearer_key(headers)
        principal = self._keyring.identify(api_key)
        try:
            idempotency_key = single_value(headers, b"idempotency-key")
        except ValueError:
            raise InvalidRequest("Idempotency-Key: expected once") from None
        return Caller(principal, api_key, None if idempotency_key is None else idempotency_key.decode("latin-1"))

    def serve(self, caller: Caller, body: bytes, request_id: str) -> Awaitable[Answer]:
        """Check a call, and return what serves it; both raise TollhouseError for what the caller is told instead."""
        call = self._planner.plan(
            decode_body(body), caller.principal, caller.api_key, caller.idempotency_key, request_id
        )
        return self._pipeline.complete(call)

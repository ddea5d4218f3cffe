"""Everything that a call can raise.

Each error carries ``status``, ``code``, ``message``, ``request_id``, ``retry_after_s`` and ``idempotency_key``, as far
as there is one.

TollhouseError
├── ApiError                          Tollhouse answered, with an error of its public contract
│   ├── Unauthorized                  401 ai_unauthorized
│   ├── BudgetExceeded                402 ai_budget_exceeded
│   ├── Forbidden                     403 ai_forbidden
│   │   ├── ModuleInactive                ai_module_inactive
│   │   ├── ModuleExpired                 ai_module_expired
│   │   ├── FeatureDisabled               ai_feature_disabled
│   │   ├── TenantForbidden               ai_tenant_forbidden
│   │   └── ModelForbidden                ai_model_forbidden
│   ├── NotFound                      404 ai_not_found
│   │   └── ModelUnknown                  ai_model_unknown
│   ├── MethodNotAllowed              405 ai_method_not_allowed
│   ├── RequestTimeout                408 ai_request_timeout
│   ├── IdempotencyInFlight           409 ai_idempotency_in_flight
│   ├── RequestTooLarge               413 ai_request_too_large
│   ├── InvalidRequest                422 ai_invalid_request
│   │   ├── IdempotencyMismatch           ai_idempotency_mismatch
│   │   ├── ModelUnpriced                 ai_model_unpriced
│   │   └── ProviderRejected              ai_provider_rejected
│   ├── GuardrailBlocked              422 ai_guardrail_blocked
│   ├── RateLimited                   429 ai_rate_limited
│   ├── HeadersTooLarge               431 ai_headers_too_large
│   ├── InternalError                 500 ai_internal_error
│   ├── Unavailable                   503 ai_unavailable
│   └── CallTimeout                   504 ai_timeout
└── NoAnswer                          no answer of Tollhouse's came
    ├── NotConnected                  no connection was made, and nothing sent
    │   ├── TrustRefused              its certificate is not one to trust
    │   └── PoolExhausted             all connections of this client were busy until the deadline
    ├── CircuitOpen                   nothing was sent: the service has failed too often just now
    ├── ConnectionLost                the connection broke; the call may have been carried out
    │   └── StreamInterrupted         … after a part of the answer had come
    ├── DeadlineExceeded              no answer came in time; the call may have been carried out
    └── UnexpectedAnswer              what answered is not Tollhouse, or speaks no HTTP/1.1
        └── GatewayError              5xx or 429 of a gateway in front of it

What may have been carried out may have been billed. Repeated with the error's ``idempotency_key`` and the same
arguments, a call is never paid twice, and gets the first answer if there is one.
"""

from typing import Any

import msgspec


class TollhouseError(Exception):
    """A call brought no answer.

    Attributes:
        message: a sentence a person can act on.
        status: the HTTP status, if something answered.
        code: Tollhouse's code, such as ``ai_budget_exceeded``, if it answered.
        request_id: names the request in Tollhouse's logs and ledger.
        retry_after_s: seconds after which a repeated call makes sense, if that was said.
        idempotency_key: the key under which the call was sent, each time it was.
        may_be_billed: whether Tollhouse said that what the call has cost is not known.
        replayed: whether that is what an earlier call under the same key came to, and nothing was done this time.
    """

    status: int | None = None
    code: str | None = None

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: str | None = None,
        request_id: str | None = None,
        retry_after_s: float | None = None,
        idempotency_key: str | None = None,
        may_be_billed: bool = False,
        replayed: bool = False,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.may_be_billed = may_be_billed
        self.replayed = replayed
        self.request_id = request_id
        self.retry_after_s = retry_after_s
        self.idempotency_key = idempotency_key
        if status is not None:
            self.status = status
        if code is not None:
            self.code = code

    def __str__(self) -> str:
        named = " ".join(str(part) for part in (self.status, self.code) if part is not None)
        where = f" (request {self.request_id})" if self.request_id else ""
        return f"{named}: {self.message}{where}" if named else f"{self.message}{where}"


class ApiError(TollhouseError):
    """Tollhouse answered with an error; one whose code this version does not know is of its status' class."""

    status: int = 500
    code: str = "ai_internal_error"


class Unauthorized(ApiError):
    """No key, or one that is unknown or revoked."""

    status = 401
    code = "ai_unauthorized"


class BudgetExceeded(ApiError):
    """The call's ceiling does not fit what is left of a budget. It is never retried."""

    status = 402
    code = "ai_budget_exceeded"


class Forbidden(ApiError):
    """The key's role does not allow this."""

    status = 403
    code = "ai_forbidden"


class ModuleInactive(Forbidden):
    """The tenant's AI module was never switched on, or is switched off."""

    code = "ai_module_inactive"


class ModuleExpired(Forbidden):
    """The tenant's AI module has run out."""

    code = "ai_module_expired"


class FeatureDisabled(Forbidden):
    """The feature is switched off for the tenant."""

    code = "ai_feature_disabled"


class TenantForbidden(Forbidden):
    """The key may not act for this tenant."""

    code = "ai_tenant_forbidden"


class ModelForbidden(Forbidden):
    """The tenant's tier has not got this model."""

    code = "ai_model_forbidden"


class NotFound(ApiError):
    """There is nothing at this address."""

    status = 404
    code = "ai_not_found"


class ModelUnknown(NotFound):
    """No such model is configured."""

    code = "ai_model_unknown"


class MethodNotAllowed(ApiError):
    """The address exists, but not for this method."""

    status = 405
    code = "ai_method_not_allowed"


class RequestTimeout(ApiError):
    """The request did not arrive whole in time."""

    status = 408
    code = "ai_request_timeout"


class IdempotencyInFlight(ApiError):
    """The same idempotency key is being answered now."""

    status = 409
    code = "ai_idempotency_in_flight"


class RequestTooLarge(ApiError):
    """The body is over the limit."""

    status = 413
    code = "ai_request_too_large"


class InvalidRequest(ApiError):
    """The request is malformed; the message names the field and what was expected."""

    status = 422
    code = "ai_invalid_request"


class IdempotencyMismatch(InvalidRequest):
    """The same idempotency key came with another body."""

    code = "ai_idempotency_mismatch"


class ModelUnpriced(InvalidRequest):
    """The model has no price, and a call that cannot be priced is refused."""

    code = "ai_model_unpriced"


class ProviderRejected(InvalidRequest):
    """The provider refused the request itself."""

    code = "ai_provider_rejected"


class GuardrailBlocked(ApiError):
    """A guardrail found in the request, or in the answer, what is not to pass; a blocked answer has been paid for."""

    status = 422
    code = "ai_guardrail_blocked"


class RateLimited(ApiError):
    """The tenant's rate limit is reached."""

    status = 429
    code = "ai_rate_limited"


class HeadersTooLarge(ApiError):
    """The request's headers are over the limit."""

    status = 431
    code = "ai_headers_too_large"


class InternalError(ApiError):
    """A defect in Tollhouse itself."""


class Unavailable(ApiError):
    """No provider can take the call, or the ledger cannot be written."""

    status = 503
    code = "ai_unavailable"


class CallTimeout(ApiError):
    """The call's deadline passed, or the provider's timeout."""

    status = 504
    code = "ai_timeout"


class NoAnswer(TollhouseError):
    """No answer of Tollhouse's came."""


class NotConnected(NoAnswer):
    """No connection was made, and so nothing was sent."""


class TrustRefused(NotConnected):
    """The service's certificate is not signed by an authority that is trusted, or is another host's."""


class PoolExhausted(NotConnected):
    """All connections of this client were busy until the deadline."""


class CircuitOpen(NoAnswer):
    """Nothing was sent, since the service has failed too often just now; ``retry_after_s`` says when it is tried."""


class ConnectionLost(NoAnswer):
    """The connection broke before the answer was whole; the call may have been carried out."""


class StreamInterrupted(ConnectionLost):
    """A stream ended before it was whole. What came is a part of the answer, and has to be paid for."""


class DeadlineExceeded(NoAnswer):
    """No answer came in time; the call may have been carried out."""


class UnexpectedAnswer(NoAnswer):
    """What answered is not Tollhouse, or speaks no HTTP/1.1."""


class GatewayError(UnexpectedAnswer):
    """A gateway in front of Tollhouse answered in its place, since it cannot reach it or is too busy."""


class _Body(msgspec.Struct):
    error: str
    message: str
    request_id: str | None = None


_decode = msgspec.json.Decoder(_Body).decode
_GATEWAY_STATUSES = frozenset({429, *range(500, 600)})


def _kinds(base: type[ApiError]) -> list[type[ApiError]]:
    return [deeper for each in base.__subclasses__() for deeper in (each, *_kinds(each))]


_BY_CODE: dict[str, type[ApiError]] = {kind.code: kind for kind in _kinds(ApiError)}
# Of a status' classes the first is the most general.
_BY_STATUS: dict[int, type[ApiError]] = {kind.status: kind for kind in reversed(_kinds(ApiError))}


def api_error(body: bytes, status: int | None = None, **known: Any) -> ApiError | None:
    """Return the error that a body in Tollhouse's own form tells of; None where it is in another form.

    Args:
        status: None for an error told within a stream, which has the status of its code.
        known: what else is known of it, as TollhouseError takes it.
    """
    try:
        told = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    kind = _BY_CODE.get(told.error) or _BY_STATUS.get(status or 0, ApiError)
    known["request_id"] = told.request_id or known.get("request_id")
    return kind(told.message, status=status, code=told.error, **known)


def error_of(
    status: int, body: bytes, *, request_id: str | None, retry_after_s: float | None, **told: bool
) -> TollhouseError:
    """Return the error that an answer of any status but 200 tells of.

    Args:
        told: what else its head says of an error of Tollhouse's own.
    """
    error = api_error(body, status, request_id=request_id, retry_after_s=retry_after_s, **told)
    if error is not None:
        return error
    kind = GatewayError if status in _GATEWAY_STATUSES else UnexpectedAnswer
    message = "something else than Tollhouse answered; check the URL, and the gateways on the way"
    return kind(message, status=status, request_id=request_id, retry_after_s=retry_after_s)

"""Every error a caller can meet, with its HTTP status and its code in the public contract.

TollhouseError
├── Unauthorized             401 ai_unauthorized
│   └── KeyRevoked               ai_unauthorized
├── BudgetExceeded           402 ai_budget_exceeded
├── Forbidden                403 ai_forbidden
│   ├── ModuleInactive           ai_module_inactive
│   ├── ModuleExpired            ai_module_expired
│   ├── FeatureDisabled          ai_feature_disabled
│   ├── TenantForbidden          ai_tenant_forbidden
│   └── ModelForbidden           ai_model_forbidden
├── NotFound                 404 ai_not_found
│   └── ModelUnknown             ai_model_unknown
├── MethodNotAllowed         405 ai_method_not_allowed
├── RequestTimeout           408 ai_request_timeout
├── IdempotencyInFlight      409 ai_idempotency_in_flight
├── Conflict                 409 ai_conflict
├── EventsGone               410 ai_events_gone
├── RequestTooLarge          413 ai_request_too_large
├── InvalidRequest           422 ai_invalid_request
│   ├── IdempotencyMismatch      ai_idempotency_mismatch
│   ├── ModelUnpriced            ai_model_unpriced
│   ├── TooManyTokens            ai_too_many_tokens
│   └── ProviderRejected         ai_provider_rejected
├── GuardrailBlocked         422 ai_guardrail_blocked
├── RateLimited              429 ai_rate_limited
├── HeadersTooLarge          431 ai_headers_too_large
├── InternalError            500 ai_internal_error
├── OutcomeUnknown           502 ai_outcome_unknown, from an edge gateway alone
├── Unavailable              503 ai_unavailable
└── CallTimeout              504 ai_timeout

StartError: the service cannot start as configured; the command line prints it and exits with 2.
"""

from typing import Any, ClassVar


class TollhouseError(Exception):
    """An outcome that the caller is told about.

    Attributes:
        message: a sentence a person can act on; never a prompt, an answer or a key.
        retry_after_s: seconds after which a retry makes sense, or None.
        may_be_billed: whether what the call has cost is not known, so that a program should not repeat it by itself.
        standing: where the caller's limits stand, if that is why (``limits.model.Standing``).
        replayed: whether it is what an earlier call under the same idempotency key came to.
    """

    status: ClassVar[int] = 500
    code: ClassVar[str] = "ai_internal_error"

    def __init__(self, message: str, *, retry_after_s: float | None = None, may_be_billed: bool = False) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_s = retry_after_s
        self.may_be_billed = may_be_billed
        self.standing: tuple[Any, ...] = ()
        self.replayed = False


class InternalError(TollhouseError):
    """A defect in Tollhouse itself."""


class Unauthorized(TollhouseError):
    """No key, or one that is unknown or revoked."""

    status = 401
    code = "ai_unauthorized"


class KeyRevoked(Unauthorized):
    """The key was revoked, which the caller is not told apart from a key that never was.

    Attributes:
        key_id: names the key.
    """

    def __init__(self, message: str, *, key_id: str = "") -> None:
        super().__init__(message)
        self.key_id = key_id


class BudgetExceeded(TollhouseError):
    """The call's ceiling does not fit what is left of a budget."""

    status = 402
    code = "ai_budget_exceeded"


class Forbidden(TollhouseError):
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

    def __init__(self, message: str, *, tenant_id: str = "") -> None:
        super().__init__(message)
        self.tenant_id = tenant_id


class ModelForbidden(Forbidden):
    """The tenant's tier has not got this model."""

    code = "ai_model_forbidden"


class NotFound(TollhouseError):
    """There is nothing at this address."""

    status = 404
    code = "ai_not_found"


class ModelUnknown(NotFound):
    """No such model is configured."""

    code = "ai_model_unknown"


class MethodNotAllowed(TollhouseError):
    """The address exists, but not for this method."""

    status = 405
    code = "ai_method_not_allowed"


class RequestTimeout(TollhouseError):
    """The caller did not send its whole request in time."""

    status = 408
    code = "ai_request_timeout"


class IdempotencyInFlight(TollhouseError):
    """The same idempotency key is being answered now."""

    status = 409
    code = "ai_idempotency_in_flight"


class Conflict(TollhouseError):
    """What it is asked for cannot be done in the state that it is in."""

    status = 409
    code = "ai_conflict"


class EventsGone(TollhouseError):
    """What followed the given position is no longer kept, or the position is none of this database's."""

    status = 410
    code = "ai_events_gone"


class RequestTooLarge(TollhouseError):
    """The body is over the limit."""

    status = 413
    code = "ai_request_too_large"


class InvalidRequest(TollhouseError):
    """The request is malformed; the message names the field and what was expected."""

    status = 422
    code = "ai_invalid_request"


class IdempotencyMismatch(InvalidRequest):
    """The same idempotency key came with another body."""

    code = "ai_idempotency_mismatch"


class ModelUnpriced(InvalidRequest):
    """The model has no price, and a call that cannot be priced is refused."""

    code = "ai_model_unpriced"


class TooManyTokens(InvalidRequest):
    """The call may use more tokens than a limit has in a whole minute: it would be refused for ever."""

    code = "ai_too_many_tokens"


class ProviderRejected(InvalidRequest):
    """The provider refused the request itself.

    Attributes:
        relayed: its status and body, where the caller speaks the provider's own format and gets its own words.
    """

    code = "ai_provider_rejected"
    relayed: tuple[int, bytes] | None = None


class GuardrailBlocked(TollhouseError):
    """A guardrail found in the request or in the answer what is not to pass; the message tells kinds and counts."""

    status = 422
    code = "ai_guardrail_blocked"


class RateLimited(TollhouseError):
    """A limit on calls, on tokens or on calls at the same time is reached, or a tenant has had its share of a queue."""

    status = 429
    code = "ai_rate_limited"


class HeadersTooLarge(TollhouseError):
    """The request's headers are over the limit."""

    status = 431
    code = "ai_headers_too_large"


class OutcomeUnknown(TollhouseError):
    """The edge lost the service after it had passed the request on: what came of it is not known."""

    status = 502
    code = "ai_outcome_unknown"


class Unavailable(TollhouseError):
    """No provider can take the call, or the database cannot be written or read."""

    status = 503
    code = "ai_unavailable"


class Undecided(Unavailable):
    """The database did not answer in time, and goes on deciding; nobody waits for its answer any more."""


class EpochLost(Unavailable):
    """This instance was declared lost while it was out of touch; others have taken its attempts over."""


class CallTimeout(TollhouseError):
    """The call's deadline passed, or the provider's timeout."""

    status = 504
    code = "ai_timeout"


class StartError(Exception):
    """The service cannot start: the message says what, where, and what was expected."""

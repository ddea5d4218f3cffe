"""Calls Tollhouse from Python: blocking or with asyncio, whole or in events.

>>> from tollhouse.client import Client
>>> with Client("http://tollhouse:8080", api_key="th_…") as client:
...     answer = client.complete(model="claude-haiku-4-5", tenant_id=42, feature_slug="chat", user_message="Hello")

A call that fails on the way is tried again as far as that cannot cost twice, within its timeout. See docs/client.md.
"""

from typing import TYPE_CHECKING, Any

from tollhouse.client.blocking import Client, CompletionStream
from tollhouse.client.errors import (
    ApiError,
    BudgetExceeded,
    CallTimeout,
    CircuitOpen,
    ConnectionLost,
    DeadlineExceeded,
    FeatureDisabled,
    Forbidden,
    GatewayError,
    GuardrailBlocked,
    HeadersTooLarge,
    IdempotencyInFlight,
    IdempotencyMismatch,
    InternalError,
    InvalidRequest,
    MethodNotAllowed,
    ModelForbidden,
    ModelUnknown,
    ModelUnpriced,
    ModuleExpired,
    ModuleInactive,
    NoAnswer,
    NotConnected,
    NotFound,
    PoolExhausted,
    ProviderRejected,
    RateLimited,
    RequestTimeout,
    RequestTooLarge,
    StreamInterrupted,
    TenantForbidden,
    TollhouseError,
    TrustRefused,
    Unauthorized,
    Unavailable,
    UnexpectedAnswer,
)
from tollhouse.client.model import Completion, Delta, GroupedUsage, StreamEvent, Tokens, Usage, UsageGroup
from tollhouse.client.request import CallOptions, Message, new_idempotency_key
from tollhouse.client.settings import BreakerPolicy, ClientOptions, RetryPolicy

if TYPE_CHECKING:
    from tollhouse.client.asynchronous import AsyncClient, AsyncCompletionStream

__all__ = [
    "ApiError",
    "AsyncClient",
    "AsyncCompletionStream",
    "BreakerPolicy",
    "BudgetExceeded",
    "CallOptions",
    "CallTimeout",
    "CircuitOpen",
    "Client",
    "ClientOptions",
    "Completion",
    "CompletionStream",
    "ConnectionLost",
    "DeadlineExceeded",
    "Delta",
    "FeatureDisabled",
    "Forbidden",
    "GatewayError",
    "GroupedUsage",
    "GuardrailBlocked",
    "HeadersTooLarge",
    "IdempotencyInFlight",
    "IdempotencyMismatch",
    "InternalError",
    "InvalidRequest",
    "Message",
    "MethodNotAllowed",
    "ModelForbidden",
    "ModelUnknown",
    "ModelUnpriced",
    "ModuleExpired",
    "ModuleInactive",
    "NoAnswer",
    "NotConnected",
    "NotFound",
    "PoolExhausted",
    "ProviderRejected",
    "RateLimited",
    "RequestTimeout",
    "RequestTooLarge",
    "RetryPolicy",
    "StreamEvent",
    "StreamInterrupted",
    "TenantForbidden",
    "Tokens",
    "TollhouseError",
    "TrustRefused",
    "Unauthorized",
    "Unavailable",
    "UnexpectedAnswer",
    "Usage",
    "UsageGroup",
    "new_idempotency_key",
]


def __getattr__(name: str) -> Any:
    # asyncio takes longer to import than all else here, and a service that blocks has no use for it.
    if name in {"AsyncClient", "AsyncCompletionStream"}:
        from tollhouse.client import asynchronous

        return getattr(asynchronous, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

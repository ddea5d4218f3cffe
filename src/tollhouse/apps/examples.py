"""Examples for the OpenAPI document, by the operation that they are of: what is sent, and what comes back."""

from collections.abc import Mapping
from typing import Any

REQUEST_ID = "req_0199c3f1a2b45c6d7e8f90a1b2c3"

_COMPLETION = {
    "content": "Sales were strong today: 320 coffees brought in 960 USD.",
    "input_tokens": 312,
    "output_tokens": 87,
    "cost_usd": 0.0005976,
    "request_id": REQUEST_ID,
    "model": "claude-haiku-4-5",
    "provider": "anthropic",
    "cached_input_tokens": 0,
    "cache_write_tokens": 0,
    "reasoning_tokens": 0,
    "total_tokens": 399,
    "finish_reason": "stop",
    "fallback_used": False,
    "usage_source": "reported",
    "latency_ms": 912,
}
_USAGE = {
    "calls": 82,
    "tokens": 14500,
    "cost_usd": 0.0234,
    "input_tokens": 11200,
    "cached_input_tokens": 0,
    "cache_write_tokens": 0,
    "output_tokens": 3300,
    "reasoning_tokens": 0,
    "media_tokens": 0,
    "unknown_calls": 0,
    "unknown_usd": 0,
}
_TENANT = {
    "tenant_id": 42,
    "name": "Nile Coffee",
    "tier": "growth",
    "is_active": True,
    "expires_at": None,
    "budget_usd": 10.00,
    "has_own_budget": False,
    "created_at": "2026-04-01T08:00:00.000Z",
    "updated_at": "2026-04-01T08:00:00.000Z",
}
_KEY = {
    "key_id": "key_0199c3f1a2b45c6d7e8f90a1b2c3",
    "service": "sales-api",
    "role": "service",
    "tenants": [42],
    "feature_slug": "sales-summary",
    "budget_usd": None,
    "created_at": "2026-04-01T08:00:00.000Z",
    "first_used_at": None,
    "revoked_at": None,
    "key": "shown this once",
}

STREAM = (
    'event: delta\ndata: {"content":"Sales were"}\n\n'
    'event: delta\ndata: {"content":" strong today."}\n\n'
    'event: usage\ndata: {"input_tokens":312,"output_tokens":5,…}\n\n'
    'event: done\ndata: {"content":"Sales were strong today.","input_tokens":312,…}\n\n'
)
"""The answer of a completion call in events."""

EVENTS = """\
id: 17
data: {"specversion":"1.0","id":"evt_019d463e967bcab545b8f596835d","source":"/tollhouse","type":"ai.job.completed",\
"subject":"job_019d463e9001c2a45c5ef24a0d11","time":"2026-04-10T12:00:00.123Z","sequence":"00000000000000000017",\
"datacontenttype":"application/json","tenantid":"42","userid":"101","data":{}}

"""
SENT: Mapping[str, Mapping[str, Any]] = {
    "complete": {
        "a question": {
            "tenant_id": 42,
            "user_id": 101,
            "feature_slug": "sales-summary",
            "model": "claude-haiku-4-5",
            "system_prompt": "You are a sales analyst.",
            "user_message": "Summarise today's sales: 320 coffees for 960 USD.",
            "max_tokens": 400,
        },
        "a conversation, streamed": {
            "tenant_id": 42,
            "feature_slug": "chat",
            "model": "claude-haiku-4-5",
            "messages": [
                {"role": "user", "content": "How many coffees were sold?"},
                {"role": "assistant", "content": "320."},
                {"role": "user", "content": "And yesterday?"},
            ],
            "stream": True,
        },
    },
    "put_tenant": {
        "a new tenant": {"name": "Nile Coffee", "tier": "growth", "is_active": True},
        "a cap of its own": {"budget_usd": 25.00},
    },
    "put_feature": {"switched off": {"is_enabled": False}},
    "create_key": {"for one tenant": {"service": "sales-api", "tenants": [42], "feature_slug": "sales-summary"}},
}
"""Bodies of requests, by operation and by what each is an example of."""

ANSWERED: Mapping[str, Mapping[str, Any]] = {
    "complete": {"a completion": _COMPLETION},
    "get_usage": {
        "one total": {"period": "2026-04", "tenant_id": 42, **_USAGE},
        "by user": {"period": "2026-04", "tenant_id": 42, "users": [{"user_id": 101, **_USAGE}]},
    },
    "get_spending": {
        "two tenants": [
            {
                "tenant_id": 42,
                "tier": "growth",
                "budget_usd": 10.00,
                "spent_usd": 3.21,
                "pct_used": 32.1,
                "reserved_usd": 0.05,
            },
            {
                "tenant_id": "acme",
                "tier": "starter",
                "budget_usd": 2.00,
                "spent_usd": 0,
                "pct_used": 0,
                "reserved_usd": 0,
            },
        ]
    },
    "get_tenant": {"a tenant": _TENANT},
    "put_tenant": {"a tenant": _TENANT},
    "create_key": {"a key": _KEY},
}
"""Bodies of answers with status 200."""

MESSAGES: Mapping[str, str] = {
    "ai_unauthorized": "the service key is unknown or revoked",
    "ai_budget_exceeded": "this call could cost up to $0.0018432, but tenant 42 has $0.001 left of its $10 for 2026-04",
    "ai_forbidden": "this key may read usage, but not make calls: its role is reader",
    "ai_module_inactive": "the AI module of tenant 42 is switched off",
    "ai_module_expired": "the AI module of tenant 42 expired on 2026-03-31",
    "ai_feature_disabled": "the feature sales-summary is switched off for tenant 42",
    "ai_tenant_forbidden": "this key may not act for tenant 42",
    "ai_model_forbidden": "the tier starter has no model claude-haiku-4-5",
    "ai_model_unknown": "no model 'claude-9' is configured; configured are: claude-haiku-4-5",
    "ai_request_timeout": "the request's body did not arrive within 30 seconds",
    "ai_idempotency_in_flight": "a call with this Idempotency-Key is being answered now; try again shortly",
    "ai_request_too_large": "the body is over the limit of 10485760 bytes",
    "ai_invalid_request": "max_token: unknown field; did you mean 'max_tokens'?",
    "ai_idempotency_mismatch": "this Idempotency-Key was used for another body",
    "ai_model_unpriced": "the model claude-9 has no price, and a call that cannot be priced is refused",
    "ai_provider_rejected": "anthropic refused the request: temperature: range: 0..1",
    "ai_guardrail_blocked": "the request was blocked by a guardrail: pii: card (1)",
    "ai_rate_limited": "tenant 42 has reached its rate limit; try again in 3 s",
    "ai_headers_too_large": "the request's head is over the limit of 65536 bytes",
    "ai_internal_error": "something went wrong here; it has been logged",
    "ai_unavailable": "the ledger cannot be written just now; try again shortly",
    "ai_timeout": "no answer came within the call's 60 seconds",
}
"""What a completion call's errors may say, by code."""

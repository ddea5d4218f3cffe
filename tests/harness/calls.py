"""The contract's example call, and what it can cost at most."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from tollhouse.completions.estimate import max_input_tokens
from tollhouse.providers.conversation import Message

NANO = 1_000_000_000
INPUT_OVERHEAD_TOKENS = 64
"""The default of a model's ``input_overhead_tokens``."""
EXAMPLE = {
    "user_id": 101,
    "feature_slug": "sales-summary",
    "model": "claude-haiku-4-5",
    "system_prompt": "You are a sales analyst.",
    "user_message": "Summarise today's sales: 3 loaves, 2 rolls.",
    "max_tokens": 400,
}


def body_for(tenant_id: object, **changes: object) -> dict[str, Any]:
    """Return the example call for a tenant; a field that is given as ``...`` is left out."""
    body = {"tenant_id": tenant_id, **EXAMPLE, **changes}
    return {name: value for name, value in body.items() if value is not ...}


def most_input_tokens(body: Mapping[str, Any]) -> int:
    """Return the bound on the input tokens of a call without a schema."""
    texts = [text for text in (body.get("system_prompt"), body["user_message"]) if text]
    return max_input_tokens([Message("user", text) for text in texts], None) + INPUT_OVERHEAD_TOKENS


def ceiling_nano_usd(body: Mapping[str, Any], *, input_usd: str, output_usd: str) -> int:
    """Return the most a call can cost at prices in USD per million tokens, worked out here in decimals."""
    tokens = most_input_tokens(body) * Decimal(input_usd) + body["max_tokens"] * Decimal(output_usd)
    return -(-int(tokens * NANO) // 1_000_000)

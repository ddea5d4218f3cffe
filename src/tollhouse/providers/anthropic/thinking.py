"""How much a model is to think, in the words that this generation of Anthropic's models takes.

| models | effort | budget |
|---|---|---|
| up to 4.5, and servers that speak Anthropic's format | a share of the output limit as budget | as it is |
| 4.6 | adaptive thinking with that effort | as it is |
| later | adaptive thinking with that effort | the effort whose share of the output limit comes closest |
"""

import re
from typing import Any, Literal

from tollhouse.errors import InvalidRequest
from tollhouse.providers.conversation import ProviderRequest, Reasoning

LEAST_BUDGET = 1024
_LOWEST_TOP_P = 0.95

_Effort = Literal["low", "medium", "high", "xhigh", "max"]

# The share of the output limit that may be thought with.
_SHARES: dict[str, float] = {
    "minimal": 0.1,
    "low": 0.2,
    "medium": 0.5,
    "high": 0.8,
    "xhigh": 0.9,
    "max": 0.95,
}
_EFFORTS: tuple[_Effort, ...] = ("low", "medium", "high", "xhigh", "max")

# What follows the name is a date, "latest" or nothing. Whatever else is called Claude came later.
_BUDGETS_ONLY = re.compile(r"claude-(3|(opus|sonnet|haiku)-4(-[015])?(-?@?\d{8}|-latest|-v\d.*)*$)")
_BOTH = re.compile(r"claude-(opus|sonnet|haiku)-4-6(?!\d)")


def thinking_fields(request: ProviderRequest) -> tuple[dict[str, Any] | None, _Effort | None]:
    """Return ``thinking`` and ``output_config.effort`` of a request; None for what is left to the vendor.

    Raises:
        InvalidRequest: the vendor takes another field of the request only without thinking, or there is no room for
            the least budget it takes.
    """
    reasoning = request.reasoning
    if reasoning is None or (reasoning.effort is None and reasoning.budget_tokens is None):
        return None, None
    if reasoning.effort == "none" or reasoning.budget_tokens == 0:
        return {"type": "disabled"}, None
    _refuse_what_thinking_forbids(request)
    if "claude-" not in request.model or _BUDGETS_ONLY.search(request.model):
        return _enabled(reasoning, request.max_tokens), None
    is_both = _BOTH.search(request.model) is not None
    if is_both and reasoning.effort is None:
        return _enabled(reasoning, request.max_tokens), None
    effort = _effort(reasoning, request.max_tokens)
    # 4.6 knows no level between high and max; of the two, the lower one spends no more than was asked for.
    return {"type": "adaptive"}, "high" if is_both and effort == "xhigh" else effort


def _refuse_what_thinking_forbids(request: ProviderRequest) -> None:
    if request.temperature not in {None, 1}:
        raise InvalidRequest("temperature: Anthropic's models take none but 1 while they think")
    if request.top_k is not None:
        raise InvalidRequest("top_k: Anthropic's models do not take it while they think")
    if request.top_p is not None and request.top_p < _LOWEST_TOP_P:
        raise InvalidRequest(f"top_p: Anthropic's models take none below {_LOWEST_TOP_P} while they think")
    if request.tool_choice is not None and request.tool_choice.mode in {"required", "named"}:
        raise InvalidRequest("tool_choice: Anthropic's models cannot be made to call a tool while they think")


def _enabled(reasoning: Reasoning, max_tokens: int) -> dict[str, Any]:
    if max_tokens <= LEAST_BUDGET:
        raise InvalidRequest(
            f"max_tokens: expected more than {LEAST_BUDGET}, the least that this model takes as its budget of thinking"
        )
    budget = reasoning.budget_tokens
    if budget is None:
        budget = int(_SHARES[reasoning.effort or "high"] * max_tokens)
    # A budget beyond the output limit, thinking included, is the same as one just below it.
    return {"type": "enabled", "budget_tokens": min(max(budget, LEAST_BUDGET), max_tokens - 1)}


def _effort(reasoning: Reasoning, max_tokens: int) -> _Effort:
    effort, budget = reasoning.effort, reasoning.budget_tokens
    if effort in _EFFORTS:
        return effort
    if effort is not None or budget is None:
        return "low"
    share = budget / max(max_tokens, 1)
    return min(_EFFORTS, key=lambda each: abs(_SHARES[each] - share))

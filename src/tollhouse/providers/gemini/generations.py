"""What depends on a model's generation: how thinking is asked for, and what has to stand beside a function call."""

import re
from typing import Any

from tollhouse.errors import InvalidRequest
from tollhouse.providers.conversation import Reasoning

_GENERATION = re.compile(r"gemini-(\d{1,3})(?!\d)")
# What a name that says nothing stands for: Google's "latest" names have long moved on to the third generation.
_NEWEST = 3

# Google's own equivalents of OpenAI's efforts (https://ai.google.dev/gemini-api/docs/openai#thinking). What is above
# "high" gets the most there is.
_LEVELS = {"minimal": "minimal", "low": "low", "medium": "medium", "high": "high", "xhigh": "high", "max": "high"}
_BUDGETS = {"none": 0, "minimal": 1024, "low": 1024, "medium": 8192, "high": 24_576, "xhigh": 24_576, "max": 24_576}
# Budgets above these are refused by Google; a budget is the most that may be used, so the vendor's most is within it.
_LARGEST_BUDGET = 24_576
_LARGEST_BUDGET_PRO = 32_768
# Half-way, as a ratio, between the budgets that Google calls low, medium and high.
_LOW_UP_TO = 2896
_MEDIUM_UP_TO = 14_189


def generation_of(model: str) -> int:
    """Return the generation that a model's name tells."""
    match = _GENERATION.search(model)
    return int(match[1]) if match else _NEWEST


def thinking_config(model: str, reasoning: Reasoning) -> dict[str, Any] | None:
    """Return a model's ``thinkingConfig``; None where there is nothing to say.

    Thoughts are shown where thinking was asked for: their text costs nothing beyond the thinking itself.

    Raises:
        InvalidRequest: thinking is to be switched off in a model that cannot be without it.
    """
    generation = generation_of(model)
    if generation >= 3:
        return {"thinkingLevel": _level(model, reasoning), "includeThoughts": True}
    is_off = reasoning.effort == "none" or reasoning.budget_tokens == 0
    if is_off and (generation < 2 or "gemini-2.0" in model):
        return None  # Models before 2.5 do not think, and know no such field.
    if is_off and "pro" in model:
        raise _cannot_be_off(model)
    largest = _LARGEST_BUDGET_PRO if "pro" in model else _LARGEST_BUDGET
    if reasoning.budget_tokens is not None:
        budget = min(reasoning.budget_tokens, largest)
    else:
        budget = largest if reasoning.effort == "max" else _BUDGETS[reasoning.effort or "medium"]
    return {"thinkingBudget": budget, "includeThoughts": True} if budget else {"thinkingBudget": 0}


def _level(model: str, reasoning: Reasoning) -> str:
    budget = reasoning.budget_tokens
    if reasoning.effort == "none" or budget == 0:
        raise _cannot_be_off(model)
    if budget is not None:
        level = "low" if budget <= _LOW_UP_TO else "medium" if budget <= _MEDIUM_UP_TO else "high"
    else:
        level = _LEVELS[reasoning.effort or "medium"]
    if "pro" in model and level == "minimal":
        return "low"  # The least that pro models know.
    # The first pro model of the third generation knows two levels only.
    return "high" if "gemini-3-pro" in model and level == "medium" else level


def _cannot_be_off(model: str) -> InvalidRequest:
    return InvalidRequest(f"reasoning: thinking cannot be switched off in {model}; expected an effort of low or more")

import pytest

from tollhouse.errors import InvalidRequest
from tollhouse.providers.anthropic.thinking import thinking_fields
from tollhouse.providers.conversation import Message, ProviderRequest, Reasoning, ToolChoice

MANUAL = "claude-sonnet-4-5"
BOTH = "claude-opus-4-6"
ADAPTIVE = "claude-opus-4-8"


def fields(model, max_tokens=10_000, effort=None, budget=None, **more):
    reasoning = Reasoning(effort=effort, budget_tokens=budget)
    return thinking_fields(
        ProviderRequest(model, (Message("user", "Hi"),), max_tokens=max_tokens, reasoning=reasoning, **more)
    )


def enabled(budget):
    return {"type": "enabled", "budget_tokens": budget}, None


def adaptive(effort):
    return {"type": "adaptive"}, effort


@pytest.mark.parametrize(
    "model",
    [
        "claude-3-7-sonnet-latest",
        "claude-sonnet-4-0",
        "claude-sonnet-4-20250514",
        "claude-opus-4-1-20250805",
        "claude-opus-4@20250514",
        "claude-opus-4-5",
        "anthropic.claude-haiku-4-5-20251001-v1:0",
        "glm-5",
    ],
)
def test_models_up_to_4_5_and_other_makers_get_budgets(model):
    assert fields(model, effort="high") == enabled(8000)
    assert fields(model, budget=3000) == enabled(3000)


@pytest.mark.parametrize(
    "model", ["claude-opus-4-7", "claude-opus-4-8", "claude-sonnet-5", "claude-fable-5", "claude-opus-4-10"]
)
def test_later_models_get_efforts(model):
    assert fields(model, effort="xhigh") == adaptive("xhigh")
    assert fields(model, budget=5500) == adaptive("medium")


def test_4_6_takes_both_but_no_xhigh():
    assert fields(BOTH, effort="max") == adaptive("max")
    assert fields(BOTH, effort="xhigh") == adaptive("high")
    assert fields("claude-sonnet-4-6", budget=5000) == enabled(5000)


@pytest.mark.parametrize(
    ("effort", "budget"),
    [("minimal", 1024), ("low", 2000), ("medium", 5000), ("high", 8000), ("xhigh", 9000), ("max", 9500)],
)
def test_an_effort_is_a_share_of_the_output_limit(effort, budget):
    assert fields(MANUAL, effort=effort) == enabled(budget)


@pytest.mark.parametrize(("budget", "sent"), [(1, 1024), (1024, 1024), (9999, 9999), (10_000, 9999), (99_999, 9999)])
def test_a_budget_keeps_to_the_vendors_bounds(budget, sent):
    assert fields(MANUAL, budget=budget) == enabled(sent)


@pytest.mark.parametrize(
    ("budget", "effort"), [(1024, "low"), (3600, "medium"), (8200, "high"), (9100, "xhigh"), (99_999, "max")]
)
def test_a_budget_is_the_effort_that_comes_closest(budget, effort):
    assert fields(ADAPTIVE, budget=budget) == adaptive(effort)


def test_minimal_is_the_lowest_effort():
    assert fields(ADAPTIVE, effort="minimal") == adaptive("low")


def test_no_room_for_the_least_budget_is_refused_by_name():
    with pytest.raises(InvalidRequest, match=r"^max_tokens: expected more than 1024"):
        fields(MANUAL, max_tokens=1024, effort="low")
    assert fields(MANUAL, max_tokens=1025, effort="low") == enabled(1024)
    assert fields(ADAPTIVE, max_tokens=100, effort="low") == adaptive("low")


@pytest.mark.parametrize("model", [MANUAL, BOTH, ADAPTIVE])
def test_no_thinking_is_said_and_nothing_is_left_to_the_vendor(model):
    assert fields(model, effort="none", temperature=0.0) == ({"type": "disabled"}, None)
    assert fields(model, budget=0) == ({"type": "disabled"}, None)
    assert fields(model) == (None, None)


@pytest.mark.parametrize("model", [MANUAL, ADAPTIVE])
@pytest.mark.parametrize(
    ("more", "name"),
    [
        ({"temperature": 0.0}, "temperature"),
        ({"top_p": 0.9}, "top_p"),
        ({"top_k": 5}, "top_k"),
        ({"tool_choice": ToolChoice("required")}, "tool_choice"),
        ({"tool_choice": ToolChoice("named", "f")}, "tool_choice"),
    ],
)
def test_what_thinking_forbids_is_refused_by_name(model, more, name):
    with pytest.raises(InvalidRequest, match=f"^{name}: "):
        fields(model, effort="high", **more)


def test_what_thinking_allows_passes():
    assert fields(MANUAL, effort="high", temperature=1.0, top_p=0.95, tool_choice=ToolChoice("none")) == enabled(8000)

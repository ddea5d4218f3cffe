"""The page of models as each vendor's clients read it: OpenAI's, with more fields; Anthropic's; Google's."""

from typing import Any

import msgspec

from tollhouse.completions.listing import ModelCard, ModelList
from tollhouse.providers.base import ApiName

_encode = msgspec.json.Encoder(decimal_format="number").encode


def models_body(api: ApiName, models: ModelList) -> bytes:
    """Return a list of models."""
    if api == "gemini":
        return _encode({"models": [_googles(card) for card in models.data]})
    if api == "messages":
        return _encode({**_fields(models), "data": [_anthropics(card) for card in models.data]})
    return _encode(models)


def model_body(api: ApiName, card: ModelCard) -> bytes:
    """Return one model."""
    if api == "gemini":
        return _encode(_googles(card))
    return _encode(_anthropics(card) if api == "messages" else card)


def _anthropics(card: ModelCard) -> dict[str, Any]:
    """Return a model as Anthropic describes one (https://platform.claude.com/docs/en/api/models/list)."""

    def supported(name: str) -> dict[str, Any]:
        return {"supported": name in card.capabilities}

    thinking = supported("reasoning")
    return {
        **_fields(card),
        "max_input_tokens": card.context_window,
        "max_tokens": card.max_output_tokens,
        "lifecycle": "active",
        "capabilities": {
            "image_input": supported("images"),
            "pdf_input": supported("documents"),
            "structured_outputs": supported("json_schema"),
            "thinking": {**thinking, "types": {"enabled": thinking, "adaptive": thinking}},
        },
    }


def _googles(card: ModelCard) -> dict[str, Any]:
    """Return a model as Google describes one (https://ai.google.dev/api/models#Model)."""
    described: dict[str, Any] = {
        "name": f"models/{card.id}",
        "displayName": card.display_name,
        "thinking": "reasoning" in card.capabilities,
    }
    limits = {"inputTokenLimit": card.context_window, "outputTokenLimit": card.max_output_tokens}
    return described | {name: limit for name, limit in limits.items() if limit is not None}


def _fields(struct: msgspec.Struct) -> dict[str, Any]:
    return msgspec.structs.asdict(struct)

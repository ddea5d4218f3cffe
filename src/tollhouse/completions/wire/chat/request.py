"""Reading a whole chat completion request into the neutral model."""

from typing import Any

import msgspec

from tollhouse.completions.decoding import check_depth
from tollhouse.completions.wire.base import Asked, only_known
from tollhouse.completions.wire.chat.messages import conversation
from tollhouse.completions.wire.fields import (
    an_object,
    cache_mark,
    flag,
    integer,
    number,
    objects,
    optional_object,
    required_text,
    text,
)
from tollhouse.errors import InvalidRequest
from tollhouse.providers.conversation import ProviderRequest, Reasoning, Tool, ToolChoice

_TRANSLATED = (
    *("model", "messages", "max_tokens", "max_completion_tokens", "stream", "stream_options", "temperature", "top_p"),
    *("top_k", "stop", "seed", "presence_penalty", "frequency_penalty", "tools", "tool_choice", "parallel_tool_calls"),
    *("response_format", "reasoning_effort", "user", "safety_identifier"),
)
# How a prompt is cached changes nothing about the answer.
_HINTS = ("prompt_cache_key", "prompt_cache_retention", "prompt_cache_options")
# What these may say without asking for anything.
_WITHOUT_EFFECT: dict[str, tuple[Any, ...]] = {
    "n": (1,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "logit_bias": ({},),
    "modalities": (["text"],),
    "store": (False,),
    "metadata": ({},),
    "service_tier": ("auto", "default"),
    "verbosity": ("medium",),
    "functions": ([],),
}
_MAX_SEED = 2**63 - 1


def provider_request(asked: Asked, max_tokens: int) -> ProviderRequest:
    """Return a request in the neutral model; raises InvalidRequest for what it cannot express, by name."""
    body = asked.body
    meaningful = {
        name: value
        for name, value in body.items()
        if not any(value == idle and type(value) is type(idle) for idle in _WITHOUT_EFFECT.get(name, ()))
    }
    only_known(meaningful, (*_TRANSLATED, *_HINTS))
    schema, schema_name, is_json = _response_format(body)
    return ProviderRequest(
        model=asked.model,
        messages=conversation(objects(body, "messages")),
        max_tokens=max_tokens,
        temperature=number(body, "temperature", 0, 2),
        stop=_stop(body.get("stop")),
        response_schema=schema,
        schema_name=schema_name,
        is_json=is_json,
        tools=tuple(_tool(tool, f"tools[{i}].") for i, tool in enumerate(objects(body, "tools"))),
        tool_choice=_tool_choice(body.get("tool_choice")),
        allows_parallel_calls=flag(body, "parallel_tool_calls"),
        reasoning=_reasoning(body),
        top_p=number(body, "top_p", 0, 1),
        top_k=integer(body, "top_k", 0, 1_000_000),
        seed=integer(body, "seed", -_MAX_SEED, _MAX_SEED),
        presence_penalty=number(body, "presence_penalty", -2, 2),
        frequency_penalty=number(body, "frequency_penalty", -2, 2),
        user=asked.user,
        stream=asked.is_stream,
    )


def _stop(value: Any) -> tuple[str, ...]:
    if value is None:
        return ()
    sequences = [value] if isinstance(value, str) else value
    if not isinstance(sequences, list) or not all(isinstance(each, str) for each in sequences):
        raise InvalidRequest("stop: expected a string or a list of strings")
    return tuple(sequences)


def _tool(tool: dict[str, Any], where: str) -> Tool:
    if tool.get("type") != "function":
        raise InvalidRequest(f"{where}type: only tools of type function can be translated for the model's provider")
    only_known(tool, ("type", "function", "cache_control"), where)
    function = an_object(tool.get("function"), f"{where}function")
    inside = f"{where}function."
    only_known(function, ("name", "description", "parameters", "strict"), inside)
    parameters = optional_object(function, "parameters", inside)
    check_depth(f"{inside}parameters", parameters)
    return Tool(
        name=required_text(function, "name", inside),
        description=text(function, "description", inside),
        parameters=parameters,
        is_strict=flag(function, "strict", inside),
        cache=cache_mark(tool, where),
    )


def _tool_choice(value: Any) -> ToolChoice | None:
    match value:
        case None:
            return None
        case "auto" | "none" | "required":
            return ToolChoice(value)
        case {"type": "function", "function": {"name": str(name)}} if name:
            return ToolChoice("named", name)
        case {"type": str()}:
            raise InvalidRequest("tool_choice.type: only a choice of type function, with the function's name, is known")
        case _:
            raise InvalidRequest("tool_choice: expected auto, none, required, or an object of type function")


def _reasoning(body: dict[str, Any]) -> Reasoning | None:
    effort = text(body, "reasoning_effort")
    if effort is None:
        return None
    try:
        return msgspec.convert({"effort": effort}, Reasoning)
    except msgspec.ValidationError:
        expected = "none, minimal, low, medium, high, xhigh, max"
        raise InvalidRequest(f"reasoning_effort: expected one of {expected}") from None


def _response_format(body: dict[str, Any]) -> tuple[dict[str, Any] | None, str | None, bool]:
    """Return the schema, its name, and whether any JSON object will do."""
    asked = optional_object(body, "response_format")
    if asked is None:
        return None, None, False
    kind = asked.get("type")
    only_known(asked, ("type", "json_schema"), "response_format.")
    if kind in ("text", "json_object"):
        return None, None, kind == "json_object"
    if kind != "json_schema":
        raise InvalidRequest("response_format.type: expected one of text, json_object, json_schema")
    where = "response_format.json_schema"
    described = an_object(asked.get("json_schema"), where)
    # Whether it is enforced to the letter is decided by what the provider can enforce.
    only_known(described, ("name", "schema", "strict", "description"), f"{where}.")
    schema = an_object(described.get("schema"), f"{where}.schema")
    check_depth(f"{where}.schema", schema)
    description = text(described, "description", f"{where}.")
    if description and schema.get("description", description) != description:
        raise InvalidRequest(f"{where}.description: cannot be translated beside another description in the schema")
    if description:
        schema = {**schema, "description": description}
    return schema, text(described, "name", f"{where}."), False

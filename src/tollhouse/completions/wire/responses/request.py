"""Reading a whole request of the Responses API into the neutral model."""

from typing import Any

import msgspec

from tollhouse.completions.decoding import check_depth
from tollhouse.completions.wire.base import Asked, only_known
from tollhouse.completions.wire.fields import an_object, flag, number, objects, optional_object, required_text, text
from tollhouse.completions.wire.responses.items import conversation
from tollhouse.errors import InvalidRequest
from tollhouse.providers.conversation import ProviderRequest, Reasoning, Tool, ToolChoice

_TRANSLATED = (
    *("model", "input", "instructions", "max_output_tokens", "stream", "stream_options", "temperature", "top_p"),
    *("tools", "tool_choice", "parallel_tool_calls", "text", "reasoning", "user", "safety_identifier"),
)
# What changes nothing about the answer: how a prompt is cached; labels, which the answer repeats; whether OpenAI keeps
# the answer. Here none is kept either way, so an answer says that it is not stored, and no request can go on from it.
_WITHOUT_SAY = ("prompt_cache_key", "prompt_cache_retention", "prompt_cache_options", "metadata", "store", "include")
# A bound on the provider's own tools, of which a translated request has none.
_OF_HOSTED_TOOLS = ("max_tool_calls",)
# What these may say without asking for anything.
_WITHOUT_EFFECT: dict[str, tuple[Any, ...]] = {
    "background": (False,),
    "truncation": ("disabled",),
    "top_logprobs": (0,),
    "service_tier": ("auto", "default"),
}
_INCLUDED = "reasoning.encrypted_content"
_FORMATS = ("text", "json_object", "json_schema")
_EFFORTS = "none, minimal, low, medium, high, xhigh, max"


def provider_request(asked: Asked, max_tokens: int) -> ProviderRequest:
    """Return a request in the neutral model; raises InvalidRequest for what it cannot express, by name."""
    body = asked.body
    meaningful = {
        name: value
        for name, value in body.items()
        if not any(value == idle and type(value) is type(idle) for idle in _WITHOUT_EFFECT.get(name, ()))
    }
    only_known(meaningful, (*_TRANSLATED, *_WITHOUT_SAY, *_OF_HOSTED_TOOLS))
    _check_include(body.get("include"))
    _check_metadata(optional_object(body, "metadata"))
    text(body, "prompt_cache_key")
    schema, schema_name, is_json = _format(optional_object(body, "text"))
    tools, choice = _tools(body)
    return ProviderRequest(
        model=asked.model,
        messages=conversation(body),
        max_tokens=max_tokens,
        temperature=number(body, "temperature", 0, 2),
        response_schema=schema,
        schema_name=schema_name,
        is_json=is_json,
        tools=tools,
        tool_choice=choice,
        allows_parallel_calls=flag(body, "parallel_tool_calls"),
        reasoning=_reasoning(optional_object(body, "reasoning")),
        top_p=number(body, "top_p", 0, 1),
        user=asked.user,
        stream=asked.is_stream,
    )


def _check_include(wanted: Any) -> None:
    if wanted is None:
        return
    if not isinstance(wanted, list):
        raise InvalidRequest("include: expected a list")
    for i, name in enumerate(wanted):
        if name != _INCLUDED:
            raise InvalidRequest(f"include[{i}]: only {_INCLUDED} can be given by the model's provider")


def _check_metadata(labels: dict[str, Any] | None) -> None:
    for name, value in (labels or {}).items():
        if not isinstance(value, str):
            raise InvalidRequest(f"metadata.{name[:64]}: expected a string")


def _tools(body: dict[str, Any]) -> tuple[tuple[Tool, ...], ToolChoice | None]:
    """Return the tools that may be called, and whether they have to be."""
    tools = tuple(_tool(tool, f"tools[{i}].") for i, tool in enumerate(objects(body, "tools")))
    choice = body.get("tool_choice")
    if not isinstance(choice, dict) or choice.get("type") != "allowed_tools":
        return tools, _tool_choice(choice)
    # To offer no others is the same to the model; OpenAI has this form for the sake of its cache.
    only_known(choice, ("type", "mode", "tools"), "tool_choice.")
    if choice.get("mode") not in ("auto", "required"):
        raise InvalidRequest("tool_choice.mode: expected auto or required")
    allowed = set()
    for i, each in enumerate(objects(choice, "tools", "tool_choice.")):
        name = each.get("name") if each.get("type") == "function" else None
        if not isinstance(name, str) or name not in {tool.name for tool in tools}:
            raise InvalidRequest(
                f"tool_choice.tools[{i}]: expected the type function, and the name of one of the tools"
            )
        allowed.add(name)
    if not allowed:
        raise InvalidRequest("tool_choice.tools: expected at least one tool")
    return tuple(tool for tool in tools if tool.name in allowed), ToolChoice(choice["mode"])


def _tool(tool: dict[str, Any], where: str) -> Tool:
    if tool.get("type") != "function":
        raise InvalidRequest(f"{where}type: only tools of type function can be translated for the model's provider")
    idle = ("defer_loading",) if tool.get("defer_loading") is False else ()
    only_known(tool, ("type", "name", "description", "parameters", "strict", *idle), where)
    parameters = optional_object(tool, "parameters", where)
    check_depth(f"{where}parameters", parameters)
    return Tool(
        name=required_text(tool, "name", where),
        description=text(tool, "description", where),
        parameters=parameters,
        is_strict=flag(tool, "strict", where),
    )


def _tool_choice(value: Any) -> ToolChoice | None:
    match value:
        case None:
            return None
        case "auto" | "none" | "required":
            return ToolChoice(value)
        case {"type": "function", "name": str(name)} if name:
            only_known(value, ("type", "name"), "tool_choice.")
            return ToolChoice("named", name)
        case {"type": str()}:
            raise InvalidRequest("tool_choice.type: only a choice of type function, with the function's name, is known")
        case _:
            raise InvalidRequest("tool_choice: expected auto, none, required, or an object of type function")


def _format(given: dict[str, Any] | None) -> tuple[dict[str, Any] | None, str | None, bool]:
    """Return the schema, its name, and whether any JSON object will do."""
    if given is None:
        return None, None, False
    idle = ("verbosity",) if given.get("verbosity") == "medium" else ()
    only_known(given, ("format", *idle), "text.")
    wanted = optional_object(given, "format", "text.")
    if wanted is None:
        return None, None, False
    kind = wanted.get("type")
    if kind not in _FORMATS:
        raise InvalidRequest(f"text.format.type: expected one of {', '.join(_FORMATS)}")
    if kind != "json_schema":
        only_known(wanted, ("type",), "text.format.")
        return None, None, kind == "json_object"
    # Whether it is enforced to the letter is decided by what the provider can enforce.
    only_known(wanted, ("type", "name", "schema", "strict", "description"), "text.format.")
    flag(wanted, "strict", "text.format.")
    schema = an_object(wanted.get("schema"), "text.format.schema")
    check_depth("text.format.schema", schema)
    description = text(wanted, "description", "text.format.")
    if description and schema.get("description", description) != description:
        raise InvalidRequest("text.format.description: cannot be translated beside another description in the schema")
    if description:
        schema = {**schema, "description": description}
    return schema, text(wanted, "name", "text.format."), False


def _reasoning(given: dict[str, Any] | None) -> Reasoning | None:
    if given is None:
        return None
    # A summary asks for the thinking to be shown; what a vendor shows of it is shown, however it is asked for.
    only_known(given, ("effort", "summary", "generate_summary"), "reasoning.")
    for name in ("summary", "generate_summary"):
        text(given, name, "reasoning.")
    effort = text(given, "effort", "reasoning.")
    if effort is None:
        return None
    try:
        return msgspec.convert({"effort": effort}, Reasoning)
    except msgspec.ValidationError:
        raise InvalidRequest(f"reasoning.effort: expected one of {_EFFORTS}") from None

"""From a body of generateContent to the neutral request."""

from typing import Any

import msgspec

from tollhouse.completions.wire.base import Asked
from tollhouse.completions.wire.gemini.contents import RESOLUTIONS, messages
from tollhouse.completions.wire.gemini.fields import choice, integer, items, known, number, required_text, text, texts
from tollhouse.completions.wire.gemini.schema import json_schema
from tollhouse.errors import InvalidRequest
from tollhouse.providers.conversation import ProviderRequest, Reasoning, Tool, ToolChoice

_BODY = (
    "model",
    "contents",
    "systemInstruction",
    "tools",
    "toolConfig",
    "generationConfig",
    "safetySettings",
    "serviceTier",
)
_GENERATION = (
    "maxOutputTokens",
    "candidateCount",
    "stopSequences",
    "temperature",
    "topP",
    "topK",
    "seed",
    "presencePenalty",
    "frequencyPenalty",
    "responseMimeType",
    "responseSchema",
    "responseJsonSchema",
    "responseModalities",
    "mediaResolution",
    "thinkingConfig",
)
# Google's Python SDK describes what a function returns, for every one that it is given. It binds nobody and no other
# format has a place for it, so it is dropped: refused, no such function could be offered to another vendor's model.
_DECLARATION = ("name", "description", "parameters", "parametersJsonSchema", "response", "responseJsonSchema")
_MODES = ("MODE_UNSPECIFIED", "AUTO", "ANY", "NONE", "VALIDATED")
_LEVELS: dict[str, Any] = {
    "THINKING_LEVEL_UNSPECIFIED": None,
    "MINIMAL": "minimal",
    "LOW": "low",
    "MEDIUM": "medium",
    "HIGH": "high",
}
_ASK_FOR_NOTHING = ("OFF", "BLOCK_NONE", "HARM_BLOCK_THRESHOLD_UNSPECIFIED")


def translated(asked: Asked, max_tokens: int) -> ProviderRequest:
    """Read the whole request for a provider of another format.

    Raises:
        InvalidRequest: a field is malformed, or says what cannot be translated; by name.
    """
    body = known(asked.body, "", _BODY)
    where = "generationConfig"
    config = known(body.get(where, {}), where, _GENERATION)
    if asked.answers > 1:
        raise InvalidRequest(f"{where}.candidateCount: the model's provider gives one answer; expected 1")
    _check_safety(body)
    if any(each.upper() != "TEXT" for each in texts(config, "responseModalities", where)):
        raise InvalidRequest(f"{where}.responseModalities: the model's provider answers in text; expected TEXT only")
    resolution = choice(config, "mediaResolution", where, RESOLUTIONS)
    tools, tool_choice = _tool_choice(_tools(body), body)
    is_json, schema = _format(config, where)
    return ProviderRequest(
        model=asked.model,
        messages=messages(body.get("contents", []), body.get("systemInstruction"), RESOLUTIONS.get(resolution or "")),
        max_tokens=max_tokens,
        temperature=number(config, "temperature", where),
        stop=texts(config, "stopSequences", where),
        response_schema=schema,
        is_json=is_json,
        tools=tools,
        tool_choice=tool_choice,
        reasoning=_reasoning(config),
        top_p=number(config, "topP", where),
        top_k=integer(config, "topK", where, least=1),
        seed=integer(config, "seed", where),
        presence_penalty=number(config, "presencePenalty", where),
        frequency_penalty=number(config, "frequencyPenalty", where),
        stream=asked.is_stream,
    )


def _check_safety(body: dict[str, Any]) -> None:
    """Refuse filters that only Google has; one that is switched off asks for nothing."""
    for i, setting in enumerate(items(body.get("safetySettings", []), "safetySettings")):
        where = f"safetySettings[{i}]"
        fields = known(setting, where, ("category", "threshold"))
        threshold = text(fields, "threshold", where)
        if threshold is not None and threshold.upper() not in _ASK_FOR_NOTHING:
            raise InvalidRequest(f"{where}.threshold: the model's provider has no such filter; expected OFF")


def _tools(body: dict[str, Any]) -> tuple[Tool, ...]:
    tools = []
    for i, each in enumerate(items(body.get("tools", []), "tools")):
        # Google's own tools (googleSearch, codeExecution, …) have no equal elsewhere.
        fields = known(each, f"tools[{i}]", ("functionDeclarations",))
        where = f"tools[{i}].functionDeclarations"
        for j, declaration in enumerate(items(fields.get("functionDeclarations", []), where)):
            tools.append(_tool(declaration, f"{where}[{j}]"))
    return tuple(tools)


def _tool(declaration: Any, where: str) -> Tool:
    fields = known(declaration, where, _DECLARATION)
    if "parameters" in fields and "parametersJsonSchema" in fields:
        raise InvalidRequest(f"{where}.parametersJsonSchema: expected either this or parameters")
    parameters = None
    if "parameters" in fields:
        parameters = json_schema(fields["parameters"], f"{where}.parameters")
    elif "parametersJsonSchema" in fields:
        parameters = _object(fields["parametersJsonSchema"], f"{where}.parametersJsonSchema")
    return Tool(required_text(fields, "name", where), text(fields, "description", where), parameters)


def _tool_choice(tools: tuple[Tool, ...], body: dict[str, Any]) -> tuple[tuple[Tool, ...], ToolChoice | None]:
    """Return the tools that may be called, and whether they are to be.

    Where several but not all are allowed, the others are not offered at all: to the model it is the same.
    """
    config = known(body.get("toolConfig", {}), "toolConfig", ("functionCallingConfig",))
    where = "toolConfig.functionCallingConfig"
    calling = known(config.get("functionCallingConfig", {}), where, ("mode", "allowedFunctionNames"))
    mode = choice(calling, "mode", where, _MODES)
    allowed = texts(calling, "allowedFunctionNames", where)
    if allowed and mode not in {"ANY", "VALIDATED"}:
        raise InvalidRequest(f"{where}.allowedFunctionNames: expected with mode ANY or VALIDATED only")
    unknown = next((name for name in allowed if all(tool.name != name for tool in tools)), None)
    if unknown is not None:
        raise InvalidRequest(f"{where}.allowedFunctionNames: a name in it is none of the tools'")
    if mode == "ANY" and len(allowed) == 1:
        return tools, ToolChoice("named", allowed[0])
    if allowed:
        tools = tuple(tool for tool in tools if tool.name in allowed)
    match mode:
        case "AUTO":
            return tools, ToolChoice("auto")
        case "ANY":
            return tools, ToolChoice("required")
        case "NONE":
            return tools, ToolChoice("none")
        case "VALIDATED":
            return tuple(msgspec.structs.replace(tool, is_strict=True) for tool in tools), ToolChoice("auto")
    return tools, None


def _format(config: dict[str, Any], where: str) -> tuple[bool, dict[str, Any] | None]:
    """Return whether the answer has to be JSON, and its schema."""
    mime = text(config, "responseMimeType", where)
    if mime not in {None, "", "text/plain", "application/json"}:
        raise InvalidRequest(f"{where}.responseMimeType: expected application/json or text/plain")
    is_json = mime == "application/json"
    names = [name for name in ("responseSchema", "responseJsonSchema") if name in config]
    if not names:
        return is_json, None
    if len(names) == 2 or not is_json:
        expected = "either this or responseSchema" if is_json else "responseMimeType application/json with it"
        raise InvalidRequest(f"{where}.{names[-1]}: expected {expected}")
    path = f"{where}.{names[0]}"
    value = config[names[0]]
    return False, json_schema(value, path) if names[0] == "responseSchema" else _object(value, path)


def _reasoning(config: dict[str, Any]) -> Reasoning | None:
    """Return how much the model is to think; whether thoughts are shown is left to the provider."""
    where = "generationConfig.thinkingConfig"
    fields = known(config.get("thinkingConfig", {}), where, ("includeThoughts", "thinkingBudget", "thinkingLevel"))
    budget = integer(fields, "thinkingBudget", where, least=-1)
    level = choice(fields, "thinkingLevel", where, _LEVELS)
    if budget is not None and level is not None:
        raise InvalidRequest(f"{where}.thinkingLevel: expected either this or thinkingBudget")
    if level is not None:
        return None if _LEVELS[level] is None else Reasoning(effort=_LEVELS[level])
    if budget is None or budget == -1:
        return None  # As much as the model sees fit, which is what a request that says nothing gets.
    return Reasoning(budget_tokens=budget) if budget else Reasoning(effort="none")


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidRequest(f"{where}: expected an object")
    return value

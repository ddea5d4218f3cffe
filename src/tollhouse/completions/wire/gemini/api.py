"""Google's generateContent and streamGenerateContent as an API that clients speak."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from tollhouse.completions.wire.base import AnswerHead, Asked, StreamWriter
from tollhouse.completions.wire.gemini import answer as gemini_answer
from tollhouse.completions.wire.gemini import request as gemini_request
from tollhouse.completions.wire.gemini.errors import error_body
from tollhouse.completions.wire.gemini.fields import camel, integer, items, named, read_object, text
from tollhouse.errors import InvalidRequest, TollhouseError
from tollhouse.providers.base import ApiName
from tollhouse.providers.conversation import ProviderAnswer, ProviderRequest
from tollhouse.providers.sse import encode_event
from tollhouse.providers.usage import Usage

_CONFIG = "generationConfig"
_SEARCHES = frozenset({"googleSearch", "googleSearchRetrieval", "enterpriseWebSearch"})
_MAPS = "googleMaps"
_CLIENTS_OWN = frozenset({"functionDeclarations", "computerUse"})
# How often a model searches for one request is its own affair, and no field bounds it: up to the second generation
# Google bills one use whatever it took, from the third on each query, of which up to seven have been seen in one
# answer. The client's name for the model does not tell its generation for sure.
_MOST_SEARCHES = 10
# How often it may go on with any other of Google's tools, each time reading everything again.
_MOST_STEPS = 10
_MOST_ANSWERS = 8


class GeminiApi:
    """Requests as Google's SDKs send them; like Google's servers, it takes names in camelCase and in snake_case."""

    name: ApiName = "gemini"
    names: Mapping[str, str] = MappingProxyType(
        {
            "messages": "contents",
            "tool_choice": "toolConfig.functionCallingConfig",
            "max_tokens": f"{_CONFIG}.maxOutputTokens",
            "temperature": f"{_CONFIG}.temperature",
            "top_p": f"{_CONFIG}.topP",
            "top_k": f"{_CONFIG}.topK",
            "seed": f"{_CONFIG}.seed",
            "presence_penalty": f"{_CONFIG}.presencePenalty",
            "frequency_penalty": f"{_CONFIG}.frequencyPenalty",
            "response_schema": f"{_CONFIG}.responseSchema",
            "is_json": f"{_CONFIG}.responseMimeType",
            "reasoning": f"{_CONFIG}.thinkingConfig",
        }
    )

    def read(self, raw: bytes, path_model: str | None = None, *, is_stream: bool = False) -> Asked:
        body = read_object(raw)
        fields = named(body, "")
        config = named(fields.get(_CONFIG, {}), _CONFIG)
        answers = integer(config, "candidateCount", _CONFIG, least=1) or 1
        if answers > _MOST_ANSWERS:
            raise InvalidRequest(f"{_CONFIG}.candidateCount: expected 1 to {_MOST_ANSWERS}")
        if "contents" not in fields:
            raise InvalidRequest("contents: is required")
        if (text(fields, "serviceTier", "") or "standard").lower() not in {"standard", "unspecified"}:
            raise InvalidRequest("serviceTier: other tiers have other prices; expected standard, or leave it out")
        tools = _tools(fields)
        searches = any(not _SEARCHES.isdisjoint(tool) for tool in tools)
        goes_on = any(not tool.keys() <= _CLIENTS_OWN for tool in tools)
        return Asked(
            body=body,
            model=path_model_name(path_model),
            max_tokens=integer(config, "maxOutputTokens", _CONFIG, least=1),
            answers=answers,
            is_stream=is_stream,
            max_searches=_MOST_SEARCHES if searches else 0,
            max_steps=_MOST_STEPS if goes_on else 0,
        )

    def limited(self, asked: Asked, max_tokens: int) -> dict[str, Any]:
        # Google shows the usage in every stream.
        # One of the two names may stand beside the other with a null, and must not be left to bring another limit.
        configs = [(name, value) for name, value in asked.body.items() if camel(name) == _CONFIG and value is not None]
        key, config = configs[0] if configs else (_CONFIG, {})
        kept = {name: value for name, value in config.items() if camel(name) != "maxOutputTokens"}
        others = {name: value for name, value in asked.body.items() if camel(name) != _CONFIG}
        return {**others, key: {**kept, "maxOutputTokens": max_tokens}}

    def translated(self, asked: Asked, max_tokens: int) -> ProviderRequest:
        return gemini_request.translated(asked, max_tokens)

    def answer(self, answer: ProviderAnswer, usage: Usage, head: AnswerHead) -> bytes:
        return gemini_answer.answer(answer, usage, head)

    def stream_writer(self, asked: Asked, head: AnswerHead) -> StreamWriter:  # noqa: ARG002
        return gemini_answer.GeminiStreamWriter(head)

    def error(self, error: TollhouseError, request_id: str) -> bytes:
        return error_body(error, request_id)

    def stream_error(self, error: TollhouseError, request_id: str) -> bytes:
        return encode_event(error_body(error, request_id))


def path_model_name(path_model: str | None) -> str:
    """Return the model that a path names, with or without the ``models/`` that Google's SDKs put before it."""
    name = (path_model or "").removeprefix("models/")
    if not name:
        raise InvalidRequest("model: is required, in the path")
    return name


def _tools(fields: dict[str, Any]) -> list[dict[str, Any]]:
    tools = [named(each, f"tools[{i}]") for i, each in enumerate(items(fields.get("tools", []), "tools"))]
    for i, tool in enumerate(tools):
        if _MAPS in tool:
            raise InvalidRequest(f"tools[{i}].{_MAPS}: is billed by use, which no answer tells")
    return tools

"""OpenAI's chat completions, as clients speak it (https://platform.openai.com/docs/api-reference/chat)."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from tollhouse.completions.wire.base import AnswerHead, Asked
from tollhouse.completions.wire.chat.answer import ChatStreamWriter, chat_completion
from tollhouse.completions.wire.chat.request import provider_request
from tollhouse.completions.wire.fields import flag, integer, json_object, model_name, optional_object, text
from tollhouse.completions.wire.openai_errors import error_body
from tollhouse.errors import InvalidRequest, TollhouseError
from tollhouse.providers.base import ApiName
from tollhouse.providers.conversation import ProviderAnswer, ProviderRequest
from tollhouse.providers.sse import encode_event
from tollhouse.providers.usage import Usage

_MAX_OUTPUT_TOKENS = 10_000_000
_MAX_ANSWERS = 128
# The others are dearer than the prices that calls are held to, or are prepaid.
_TIERS = frozenset({None, "auto", "default", "flex"})

# What servers that speak this format take beyond it, and what makes an answer cost other than its usage and prices say.
_REFUSED = {
    "models": "another model has another price",
    "plugins": "they are billed in units that no usage tells",
    "search_parameters": "searches are billed in units that no usage tells",
    "enable_search": "searches are billed in units that no usage tells",
    "best_of": "answers that are not shown would be billed too; expected n alone",
    "n_predict": "expected max_tokens",
    "num_predict": "expected max_tokens",
}
_TOOLS = frozenset({None, "function", "custom"})
# Azure looks its customers' own data up, and asks the model what for first.
_DATA_SOURCES = ("data_sources", "dataSources")
_STEPS_WITH_DATA = 2


class _Chunk(msgspec.Struct):
    choices: list[msgspec.Raw] | None = None
    usage: dict[str, Any] | None = None


_chunk_decoder = msgspec.json.Decoder(_Chunk)


def is_usage_alone(data: bytes) -> bool:
    """Tell whether a relayed event holds the usage and nothing else.

    Tollhouse asks for it whether the client did or not. A client that did not must not see it: many take the first
    choice of each chunk without looking whether there is one.

    Args:
        data: the event's.
    """
    if b'"usage"' not in data:
        return False
    try:
        chunk = _chunk_decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    return chunk.choices == [] and chunk.usage is not None


class ChatApi:
    """``POST /v1/chat/completions``."""

    name: ApiName = "chat"
    names: Mapping[str, str] = MappingProxyType(
        {
            "response_schema": "response_format",
            "is_json": "response_format",
            "allows_parallel_calls": "parallel_tool_calls",
            "reasoning": "reasoning_effort",
        }
    )

    def read(self, raw: bytes, path_model: str | None = None, *, is_stream: bool = False) -> Asked:  # noqa: ARG002
        body = json_object(raw)
        model = model_name(body)
        if not isinstance(body.get("messages"), list) or not body["messages"]:
            raise InvalidRequest("messages: expected a list of at least one message")
        if text(body, "service_tier") not in _TIERS:
            raise InvalidRequest("service_tier: expected auto, default or flex; others have other prices")
        _refuse_uncounted(body)
        has_data = any(body.get(name) for name in _DATA_SOURCES)
        options = optional_object(body, "stream_options") or {}
        shows_usage = flag(options, "include_usage", "stream_options.") or False
        return Asked(
            body=body,
            model=model,
            max_tokens=_limit(body),
            answers=integer(body, "n", 1, _MAX_ANSWERS) or 1,
            is_stream=flag(body, "stream") or False,
            shows_usage=shows_usage,
            is_hidden=None if shows_usage else is_usage_alone,
            user=text(body, "user") or text(body, "safety_identifier"),
            max_searches=0 if body.get("web_search_options") is None else 1,
            max_steps=_STEPS_WITH_DATA if has_data else 0,
            reads_stored=has_data,
        )

    def limited(self, asked: Asked, max_tokens: int) -> dict[str, Any]:
        name = "max_completion_tokens" if asked.body.get("max_tokens") is None else "max_tokens"
        body = {**asked.body, name: max_tokens}
        if asked.is_stream:
            body["stream_options"] = {**(asked.body.get("stream_options") or {}), "include_usage": True}
        return body

    def translated(self, asked: Asked, max_tokens: int) -> ProviderRequest:
        return provider_request(asked, max_tokens)

    def answer(self, answer: ProviderAnswer, usage: Usage, head: AnswerHead) -> bytes:
        return chat_completion(answer, usage, head)

    def stream_writer(self, asked: Asked, head: AnswerHead) -> ChatStreamWriter:
        return ChatStreamWriter(head, shows_usage=asked.shows_usage)

    def error(self, error: TollhouseError, request_id: str) -> bytes:  # noqa: ARG002
        return error_body(error)

    def stream_error(self, error: TollhouseError, request_id: str) -> bytes:  # noqa: ARG002
        return encode_event(error_body(error))


def _refuse_uncounted(body: dict[str, Any]) -> None:
    """Refuse what no ceiling or no usage holds, of vendors whose fields are otherwise passed on unread."""
    for name, reason in _REFUSED.items():
        if body.get(name):
            raise InvalidRequest(f"{name}: not allowed, since {reason}")
    tools = body.get("tools")
    for i, tool in enumerate(tools if isinstance(tools, list) else ()):
        kind = tool.get("type") if isinstance(tool, dict) else None
        if isinstance(kind, str) and kind not in _TOOLS:
            raise InvalidRequest(
                f"tools[{i}].type: {kind[:64]!r} is run and billed by the provider in units that no usage tells; "
                "expected function or custom"
            )


def _limit(body: dict[str, Any]) -> int | None:
    older = integer(body, "max_tokens", 1, _MAX_OUTPUT_TOKENS)
    newer = integer(body, "max_completion_tokens", 1, _MAX_OUTPUT_TOKENS)
    if older is not None and newer is not None:
        raise InvalidRequest("max_tokens: expected either max_tokens or max_completion_tokens, and not both")
    return older if newer is None else newer

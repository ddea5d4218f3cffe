"""Anthropic's Messages API, as a client speaks it."""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import msgspec

from tollhouse.completions.weight import is_clients_own
from tollhouse.completions.wire.base import AnswerHead, Asked, StreamWriter
from tollhouse.completions.wire.messages.answer import MessagesWriter, encode_answer
from tollhouse.completions.wire.messages.request import a_flag, a_text, a_whole_number, an_object, translate
from tollhouse.errors import InvalidRequest, TollhouseError
from tollhouse.kit.validation import decode_json
from tollhouse.providers.base import ApiName
from tollhouse.providers.conversation import ProviderAnswer, ProviderRequest
from tollhouse.providers.sse import encode_event
from tollhouse.providers.usage import Usage

_MAX_MODEL = 256
_MAX_TOKENS = 10_000_000
_SEARCH = "web_search_"
_DEFAULT_SEARCHES = 10
"""How often a search tool may be used that names no limit; without one, a call would have no ceiling."""
_MOST_SEARCHES = 1000
# Anthropic goes on by itself with its own tools up to ten times, and then hands the turn back.
_MOST_STEPS = 10
_CODE = "code_execution_"
# With one of these, code is run without charge; by itself it is billed by the hour of a container.
_WITH_FREE_CODE = re.compile(r"web_(search|fetch)_(\d{8})")
_FREE_CODE_SINCE = "20260209"

# Anthropic's word for what a status means; its SDK picks the class of the error by the status, and shows the word.
_ERROR_TYPES = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    409: "conflict_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}

_decoder = msgspec.json.Decoder(dict[str, Any])
_encoder = msgspec.json.Encoder()


class MessagesApi:
    """Reads and writes the Messages API."""

    name: ApiName = "messages"
    names: Mapping[str, str] = MappingProxyType(
        {
            "response_schema": "output_config.format",
            "allows_parallel_calls": "tool_choice.disable_parallel_tool_use",
            "reasoning": "thinking",
        }
    )

    def read(self, raw: bytes, path_model: str | None = None, *, is_stream: bool = False) -> Asked:  # noqa: ARG002
        try:
            body = decode_json(_decoder, raw)
        except ValueError as error:
            raise InvalidRequest(str(error)) from None
        model = a_text(body.get("model"), "model")
        if not 0 < len(model) <= _MAX_MODEL or not model.isprintable():
            raise InvalidRequest(f"model: expected 1 to {_MAX_MODEL} printable characters")
        messages = body.get("messages")
        if not isinstance(messages, list) or not messages:
            raise InvalidRequest("messages: expected at least one")
        metadata = an_object(body.get("metadata") or {}, "metadata")
        user = metadata.get("user_id")
        _refuse_unpriced(body)
        tools = _tools(body)
        max_searches = sum(_searches(tool, index) for index, tool in enumerate(tools))
        if max_searches > _MOST_SEARCHES:
            raise InvalidRequest(f"tools: expected search tools of at most {_MOST_SEARCHES} uses together")
        compacts = _compacts(body)
        return Asked(
            body=body,
            model=model,
            max_tokens=a_whole_number(body.get("max_tokens"), "max_tokens", 0, _MAX_TOKENS),
            answers=1 + compacts,
            is_stream=a_flag(body.get("stream"), "stream") or False,
            user=None if user is None else a_text(user, "metadata.user_id"),
            max_searches=max_searches,
            max_steps=max_searches + compacts + _other_steps(body, tools),
        )

    def limited(self, asked: Asked, max_tokens: int) -> dict[str, Any]:
        body = {**asked.body, "max_tokens": max_tokens}
        if asked.max_searches:
            # What was reserved for searches has to bind the provider too.
            body["tools"] = [
                {**tool, "max_uses": _DEFAULT_SEARCHES}
                if _is_of_kind(tool, _SEARCH) and tool.get("max_uses") is None
                else tool
                for tool in _tools(asked.body)
            ]
        return body

    def translated(self, asked: Asked, max_tokens: int) -> ProviderRequest:
        return translate(asked, max_tokens)

    def answer(self, answer: ProviderAnswer, usage: Usage, head: AnswerHead) -> bytes:
        return encode_answer(answer, usage, head)

    def stream_writer(self, asked: Asked, head: AnswerHead) -> StreamWriter:  # noqa: ARG002
        return MessagesWriter(head)

    def error(self, error: TollhouseError, request_id: str) -> bytes:
        kind = _ERROR_TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
        described = {"type": kind, "message": error.message, "code": error.code}
        return _encoder.encode({"type": "error", "error": described, "request_id": request_id})

    def stream_error(self, error: TollhouseError, request_id: str) -> bytes:
        return encode_event(self.error(error, request_id), "error")


def _refuse_unpriced(body: dict[str, Any]) -> None:
    """Refuse what Anthropic bills by other prices than the model's: no ceiling could be told, nor the cost."""
    if body.get("speed") not in (None, "standard"):
        raise InvalidRequest("speed: only standard is allowed, since any other has another price")
    if body.get("inference_geo") not in (None, "global"):
        raise InvalidRequest("inference_geo: only global is allowed, since any other has another price")
    if body.get("fallbacks"):
        raise InvalidRequest("fallbacks: not allowed, since another model has another price")
    tools = _tools(body)
    has_free_code = any(map(_brings_free_code, tools))
    for index, tool in enumerate(tools):
        if _is_of_kind(tool, "advisor_"):
            raise InvalidRequest(f"tools[{index}].type: not allowed, since another model has another price")
        if _is_of_kind(tool, _CODE) and not has_free_code:
            raise InvalidRequest(
                f"tools[{index}].type: code is run and billed by the hour, in units that cannot be entered with an "
                f"answer; it is free beside a tool web_search or web_fetch of {_FREE_CODE_SINCE} or later"
            )
    _refuse_late_tools(body["messages"])


def _brings_free_code(tool: dict[str, Any]) -> bool:
    kind = tool.get("type")
    match = _WITH_FREE_CODE.fullmatch(kind) if isinstance(kind, str) else None
    return match is not None and match[2] >= _FREE_CODE_SINCE


def _refuse_late_tools(messages: list[Any]) -> None:
    """Refuse tools of the provider that are defined in the midst of a conversation, past all that bounds them."""
    for index, message in enumerate(messages):
        content = message.get("content") if isinstance(message, dict) else None
        for at, block in enumerate(content if isinstance(content, list) else ()):
            if not isinstance(block, dict) or block.get("type") != "tool_addition":
                continue
            tool = block.get("tool")
            definition = tool.get("definition") if isinstance(tool, dict) else None
            if isinstance(definition, dict) and not is_clients_own(definition):
                raise InvalidRequest(
                    f"messages[{index}].content[{at}].tool.definition: a tool that the provider runs is expected in "
                    "tools, where what it costs can be bounded"
                )


def _compacts(body: dict[str, Any]) -> int:
    """Return 1 where Anthropic may sum up the conversation beside what it answers, at the cost of a call of its own."""
    management = body.get("context_management")
    edits = management.get("edits") if isinstance(management, dict) else None
    given = [edit for edit in edits if isinstance(edit, dict)] if isinstance(edits, list) else []
    return int(bool(body.get("compaction")) or any(_is_of_kind(edit, "compact") for edit in given))


def _other_steps(body: dict[str, Any], tools: list[dict[str, Any]]) -> int:
    """Return how often Anthropic may go on by itself with tools of its own other than search."""
    runs_others = any(not is_clients_own(tool) and not _is_of_kind(tool, _SEARCH) for tool in tools)
    return _MOST_STEPS if runs_others or body.get("mcp_servers") or body.get("container") else 0


def _tools(body: dict[str, Any]) -> list[dict[str, Any]]:
    tools = body.get("tools")
    if tools is None:
        return []
    if not isinstance(tools, list):
        raise InvalidRequest("tools: expected a list")
    return [an_object(tool, f"tools[{index}]") for index, tool in enumerate(tools)]


def _is_of_kind(tool: dict[str, Any], prefix: str) -> bool:
    kind = tool.get("type")
    return isinstance(kind, str) and kind.startswith(prefix)


def _searches(tool: dict[str, Any], index: int) -> int:
    if not _is_of_kind(tool, _SEARCH):
        return 0
    most = tool.get("max_uses")
    return _DEFAULT_SEARCHES if most is None else a_whole_number(most, f"tools[{index}].max_uses", 1, _MOST_SEARCHES)

"""The Responses API: ``POST /v1/responses``."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from tollhouse.completions.wire.base import AnswerHead, Asked
from tollhouse.completions.wire.fields import flag, integer, json_object, model_name, text
from tollhouse.completions.wire.openai_errors import error_body, error_object
from tollhouse.completions.wire.responses.answer import encode, whole_response
from tollhouse.completions.wire.responses.hosted import goes_on, offers_search, reads_stored, refuse_uncounted
from tollhouse.completions.wire.responses.request import provider_request
from tollhouse.completions.wire.responses.stream import ResponsesStreamWriter
from tollhouse.errors import InvalidRequest, TollhouseError
from tollhouse.providers.base import ApiName
from tollhouse.providers.conversation import ProviderAnswer, ProviderRequest
from tollhouse.providers.sse import encode_event
from tollhouse.providers.usage import Usage

_MAX_OUTPUT_TOKENS = 10_000_000
_MAX_TOOL_CALLS = 1_000
_DEFAULT_TOOL_CALLS = 10
# The others are dearer than the prices that calls are held to.
_TIERS = frozenset({None, "auto", "default", "flex"})
_STORED_INPUT = ("previous_response_id", "conversation", "prompt")


class ResponsesApi:
    """``POST /v1/responses``."""

    name: ApiName = "responses"
    names: Mapping[str, str] = MappingProxyType(
        {
            "messages": "input",
            "max_tokens": "max_output_tokens",
            "response_schema": "text.format",
            "is_json": "text.format",
            "allows_parallel_calls": "parallel_tool_calls",
        }
    )

    def read(self, raw: bytes, path_model: str | None = None, *, is_stream: bool = False) -> Asked:  # noqa: ARG002
        body = json_object(raw)
        model = model_name(body)
        if flag(body, "background"):
            raise InvalidRequest(
                "background: a background response is answered later, and its cost could not be entered with its answer"
            )
        if text(body, "service_tier") not in _TIERS:
            raise InvalidRequest("service_tier: expected auto, default or flex; others have other prices")
        _check_input(body)
        refuse_uncounted(body)
        tool_calls = integer(body, "max_tool_calls", 1, _MAX_TOOL_CALLS) or _DEFAULT_TOOL_CALLS
        # The conversation may be summed up beside what is answered.
        compacts = int(bool(body.get("context_management")))
        return Asked(
            body=body,
            model=model,
            max_tokens=integer(body, "max_output_tokens", 1, _MAX_OUTPUT_TOKENS),
            is_stream=flag(body, "stream") or False,
            user=text(body, "safety_identifier") or text(body, "user"),
            max_searches=tool_calls if offers_search(body) else 0,
            max_steps=(tool_calls if goes_on(body) else 0) + compacts,
            reads_stored=reads_stored(body),
        )

    def limited(self, asked: Asked, max_tokens: int) -> dict[str, Any]:
        body = {**asked.body, "max_output_tokens": max_tokens}
        if goes_on(asked.body) and asked.body.get("max_tool_calls") is None:
            # What was reserved for the provider's own tools has to bind it as well.
            body["max_tool_calls"] = _DEFAULT_TOOL_CALLS
        return body

    def translated(self, asked: Asked, max_tokens: int) -> ProviderRequest:
        return provider_request(asked, max_tokens)

    def answer(self, answer: ProviderAnswer, usage: Usage, head: AnswerHead) -> bytes:
        return whole_response(answer, usage, head)

    def stream_writer(self, asked: Asked, head: AnswerHead) -> ResponsesStreamWriter:
        return ResponsesStreamWriter(asked, head)

    def error(self, error: TollhouseError, request_id: str) -> bytes:  # noqa: ARG002
        return error_body(error)

    def stream_error(self, error: TollhouseError, request_id: str) -> bytes:  # noqa: ARG002
        # The documented event has its fields at the top, where clients that know the event find them; OpenAI itself
        # sends them in ``error``, at which its SDKs raise whatever the event is called.
        described = error_object(error)
        event = {
            "type": "error",
            "code": described["code"],
            "message": described["message"],
            "param": described["param"],
            "sequence_number": 0,
            "error": described,
        }
        return encode_event(encode(event), "error")


def _check_input(body: dict[str, Any]) -> None:
    given = body.get("input")
    if given is None and any(body.get(name) is not None for name in _STORED_INPUT):
        return
    if not isinstance(given, str | list) or not given:
        raise InvalidRequest("input: expected a string, or a list of at least one item")

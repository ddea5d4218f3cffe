"""How OpenAI's APIs say that they refuse a call, which DeepSeek's do with words of its own."""

from typing import Any, ClassVar

import msgspec

from tollhouse.testing.behaviour import Format


class OpenAIErrors:
    """What all APIs of OpenAI have in common."""

    name: Format = "openai"
    id_header: str | None = "x-request-id"
    stream_type = "text/event-stream; charset=utf-8"
    is_free = False
    _errors: ClassVar[dict[int, tuple[str, str]]] = {
        401: ("invalid_request_error", "invalid_api_key"),
        404: ("invalid_request_error", "model_not_found"),
        429: ("requests", "rate_limit_exceeded"),
    }

    def error(self, status: int, reason: str, retry_after_s: float | None) -> bytes:  # noqa: ARG002 a header says it
        return msgspec.json.encode(self._error(status, reason))

    def _error(self, status: int, reason: str) -> dict[str, Any]:
        default = "server_error" if status >= 500 else "invalid_request_error"
        kind, code = self._errors.get(status) or (default, None)
        return {"error": {"message": reason, "type": kind, "param": None, "code": code}}


class DeepSeekErrors(OpenAIErrors):
    """What all APIs of DeepSeek have in common."""

    name: Format = "deepseek"
    id_header: str | None = None
    _errors: ClassVar[dict[int, tuple[str, str]]] = {
        401: ("authentication_error", "invalid_request_error"),
        402: ("unknown_error", "invalid_request_error"),
        429: ("rate_limit_reached", "invalid_request_error"),
    }

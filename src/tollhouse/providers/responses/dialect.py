"""OpenAI's Responses API as a provider serves it (https://platform.openai.com/docs/api-reference/responses).

Requests are relayed to it from clients that speak it themselves; what other clients ask is translated into chat
completions, so nothing here encodes a neutral request.
"""

from collections.abc import Mapping
from typing import Any

import msgspec

from tollhouse.errors import InvalidRequest
from tollhouse.providers.base import OutcomeUnknown, WireRequest, WireResponse
from tollhouse.providers.conversation import ProviderAnswer, Text
from tollhouse.providers.parsing import UNREADABLE, first_id
from tollhouse.providers.refusals import failure
from tollhouse.providers.responses.foreign import without_foreign
from tollhouse.providers.responses.reply import (
    Reply,
    failed,
    finish_reason,
    is_client_call,
    is_operators,
    is_refusal,
    output_items,
    parts_of,
    usage_of,
)
from tollhouse.providers.responses.stream import ResponsesStreamReader

PATH = "/responses"

# What chooses an organisation, a project or an account is not passed on: the operator's key decides that.
_PASSED_ON = ("openai-beta",)
# The call is worked on after this answer, or was broken off: what it comes to is not in it.
_UNDECIDED = frozenset({"queued", "in_progress", "cancelled"})

_encode = msgspec.json.Encoder().encode
_decoder = msgspec.json.Decoder(Reply)


class ResponsesDialect:
    """Speaks the Responses API under a base URL such as ``https://api.openai.com/v1``.

    Args:
        headers: the provider's own, with the operator's key.
        secret: that key, which is taken out of any reason passed on.
    """

    def __init__(self, headers: tuple[tuple[str, str], ...], secret: str) -> None:
        self._headers = headers
        self._secret = secret

    def relay(self, body: Mapping[str, Any], *, model: str, stream: bool, headers: Mapping[str, str]) -> WireRequest:  # noqa: ARG002
        passed_on = tuple((name, headers[name]) for name in _PASSED_ON if name in headers)
        try:
            encoded = _encode({**without_foreign(body), "model": model})
        except (RecursionError, msgspec.MsgspecError):
            raise InvalidRequest("the body is nested too deeply") from None
        return WireRequest(path=PATH, headers=self._headers + passed_on, body=encoded)

    def decode(self, response: WireResponse) -> ProviderAnswer:
        if response.status != 200:
            raise failure(response, secret=self._secret, is_operators=is_operators)
        try:
            reply = _decoder.decode(response.body)
        except UNREADABLE as error:
            raise OutcomeUnknown("the provider's answer cannot be read as a response") from error
        items = output_items(reply)
        if not isinstance(reply.output, list) or reply.status == "failed":
            raise failed(reply.error, usage=reply.usage, has_output=bool(reply.output), secret=self._secret)
        if isinstance(reply.status, str) and reply.status in _UNDECIDED:
            raise OutcomeUnknown("the provider works on the call in the background, and may bill it later")
        parts = tuple(part for item in items for part in parts_of(item))
        texts = [part.text for part in parts if isinstance(part, Text)]
        reason = finish_reason(reply, refuses=any(map(is_refusal, items)), has_calls=any(map(is_client_call, items)))
        return ProviderAnswer(
            content="".join(texts),
            finish_reason=reason,
            usage=usage_of(reply),
            provider_request_id=first_id(response.headers.get("x-request-id"), reply.id),
            parts=() if len(texts) == len(parts) == 1 else parts,
        )

    def stream_reader(self) -> ResponsesStreamReader:
        return ResponsesStreamReader(self._secret)

"""Counting the tokens of a prompt, as Anthropic's clients ask for it before they send one."""

import msgspec

from tollhouse.completions.wire.base import Asked
from tollhouse.completions.wire.fields import json_object, model_name
from tollhouse.completions.wire.messages.api import MessagesApi

# English has about four bytes a token in JSON; three errs on the safe side of a limit.
_BYTES_PER_TOKEN = 3


class CountingApi(MessagesApi):
    """``POST /v1/messages/count_tokens``: a request of the Messages API without a limit on an answer."""

    def read(self, raw: bytes, path_model: str | None = None, *, is_stream: bool = False) -> Asked:  # noqa: ARG002
        body = json_object(raw)
        return Asked(body=body, model=model_name(body), max_tokens=0)


def estimated_count(prompt_bytes: int) -> bytes:
    """Return the answer for a model of a provider that counts none before it is called."""
    return msgspec.json.encode({"input_tokens": -(-prompt_bytes // _BYTES_PER_TOKEN)})

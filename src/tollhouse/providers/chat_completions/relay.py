"""Passing on a request that is in the provider's own format already."""

from collections.abc import Mapping
from typing import Any

import msgspec

from tollhouse.errors import InvalidRequest
from tollhouse.providers.base import WireRequest
from tollhouse.providers.chat_completions.request import encoder

# What chooses an organisation, a project or an account is not passed on: the operator's key decides that.
_PASSED_ON = ("openai-beta",)


def relayed(
    path: str, body: Mapping[str, Any], *, model: str, headers: Mapping[str, str], own: tuple[tuple[str, str], ...]
) -> WireRequest:
    """Return a client's request under the model's name at the provider.

    Args:
        path: the API's, under the base URL.
        body: the client's JSON.
        model: what its ``model`` becomes.
        headers: the client's, names in lower case.
        own: the provider's, with the operator's key.
    """
    passed_on = tuple((name, headers[name]) for name in _PASSED_ON if name in headers)
    try:
        encoded = encoder.encode({**body, "model": model})
    except (RecursionError, msgspec.MsgspecError):
        raise InvalidRequest("the body is nested too deeply") from None
    return WireRequest(path=path, headers=own + passed_on, body=encoded)


def with_max_tokens(body: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a request whose limit has the older of its two names, for servers that would ignore the newer one.

    An answer without a limit would have no ceiling on its cost.
    """
    if body.get("max_completion_tokens") is None:
        return body
    renamed = {name: value for name, value in body.items() if name != "max_completion_tokens"}
    return {**renamed, "max_tokens": body["max_completion_tokens"]}

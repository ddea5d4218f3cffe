"""What is sent: a call is checked and written once, and each of its tries sends the same bytes."""

import json
import math
import os
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal, Required, TypedDict
from urllib.parse import urlencode

import msgspec

from tollhouse.client.model import GroupBy
from tollhouse.client.settings import Settings

_MAX_IDEMPOTENCY_KEY = 255
# Beyond the call's deadline, so that Tollhouse's own word on what became of it still arrives.
GRACE_S = 2.0
_OF_HEAD = frozenset({"idempotency_key", "extra_headers"})
# They say how a message is framed, which is the client's to say.
_OF_CONNECTION = frozenset({"connection", "content-length", "expect", "te", "trailer", "transfer-encoding", "upgrade"})
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class Message(TypedDict):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str


class CallOptions(TypedDict, total=False):
    """What may be given to a call by name; ``Call`` says what each is."""

    model: Required[str]
    tenant_id: int | str | None
    user_id: int | str | None
    feature_slug: str | None
    system_prompt: str | None
    user_message: str | None
    messages: Sequence[Message] | None
    max_tokens: int | None
    temperature: float | None
    stop: str | Sequence[str] | None
    response_schema: Mapping[str, Any] | None
    timeout_s: float | None
    idempotency_key: str | None
    extra_headers: Mapping[str, str] | None


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """A completion call. What is None is left out, and Tollhouse's default applies.

    Attributes:
        model: the name of a configured model.
        tenant_id: who pays; by default the client's, else the key's only one.
        user_id: who asked.
        feature_slug: what it is for; by default the client's, else the key's.
        user_message: the question; either this or ``messages``.
        max_tokens: the most the answer may have; what it can cost is reserved, so small is better.
        response_schema: a JSON Schema that the answer shall have the form of.
        timeout_s: in place of the client's.
        idempotency_key: 1 to 255 printable ASCII characters; one is made for the call if none is given. Repeated with
            the same key, a call gets the first answer and is not paid again; give one where the repetition is made by
            somebody else than this client, such as a job that may run twice.
        extra_headers: sent besides the client's own, such as ``traceparent``.
    """

    model: str
    tenant_id: int | str | None = None
    user_id: int | str | None = None
    feature_slug: str | None = None
    system_prompt: str | None = None
    user_message: str | None = None
    messages: Sequence[Message] | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    stop: str | Sequence[str] | None = None
    response_schema: Mapping[str, Any] | None = None
    timeout_s: float | None = None
    idempotency_key: str | None = None
    extra_headers: Mapping[str, str] | None = None


class Request(msgspec.Struct, frozen=True):
    """A request, ready to be sent any number of times.

    Attributes:
        idempotency_key: None where reading changes nothing.
        timeout_s: how long all tries may take together.
    """

    method: str
    target: str
    headers: list[tuple[str, str]]
    body: bytes
    timeout_s: float
    idempotency_key: str | None = None

    @property
    def patience_s(self) -> float:
        """How long its answers are waited for."""
        return self.timeout_s + GRACE_S


class Requests:
    """Writes the requests of one client."""

    def __init__(self, settings: Settings, version: str) -> None:
        self._settings = settings
        self._origin = settings.origin
        self._headers = [
            ("Host", self._origin.authority),
            ("Authorization", f"Bearer {settings.api_key}"),
            ("User-Agent", f"tollhouse-python/{version}"),
        ]

    def completion(self, options: CallOptions, *, stream: bool) -> Request:
        """Return a call's request, with a new idempotency key unless one is given.

        Raises:
            TypeError: an argument has no such name, is missing, or is nothing that JSON can say.
            ValueError: one has a value that cannot be meant.
        """
        call = Call(**options)
        timeout_s = self._settings.timeout_s if call.timeout_s is None else call.timeout_s
        if not 0 < timeout_s < math.inf:
            raise ValueError(f"timeout_s: expected seconds above 0, found {timeout_s}")
        key = new_idempotency_key() if call.idempotency_key is None else checked_key(call.idempotency_key)
        fields = {name: getattr(call, name) for name in Call.__struct_fields__ if name not in _OF_HEAD}
        fields["tenant_id"] = self._settings.tenant_id if call.tenant_id is None else call.tenant_id
        fields["feature_slug"] = call.feature_slug or self._settings.feature_slug
        fields["timeout_s"] = timeout_s
        if stream:
            fields["stream"] = True
        accepted = "text/event-stream" if stream else "application/json"
        headers = [*self._headers, ("Accept", accepted), ("Content-Type", "application/json"), ("Idempotency-Key", key)]
        headers += _checked_headers(call.extra_headers or {}, headers)
        return Request("POST", f"{self._origin.prefix}/ai/complete", headers, _body(fields), timeout_s, key)

    def usage(self, tenant_id: int | str | None, period: str | None, group_by: GroupBy | None) -> Request:
        """Return the request for a tenant's usage."""
        tenant_id = self._settings.tenant_id if tenant_id is None else tenant_id
        asked = {"tenant_id": tenant_id, "period": period, "group_by": group_by}
        query = urlencode({name: value for name, value in asked.items() if value is not None})
        target = f"{self._origin.prefix}/ai/usage"
        headers = [*self._headers, ("Accept", "application/json")]
        return Request("GET", f"{target}?{query}" if query else target, headers, b"", self._settings.timeout_s)


def new_idempotency_key() -> str:
    """Return a key that nobody else has; keys sort by the time they were made."""
    return f"call-{time.time_ns() // 1_000_000:012x}{os.urandom(10).hex()}"


def checked_key(key: str) -> str:
    """Return a caller's own key; raises ValueError if a header cannot carry it as it is."""
    if not 0 < len(key) <= _MAX_IDEMPOTENCY_KEY or not key.isascii() or not key.isprintable() or key != key.strip():
        raise ValueError(
            f"idempotency_key: expected 1 to {_MAX_IDEMPOTENCY_KEY} printable ASCII characters, no space at either end"
        )
    return key


def _checked_headers(extra: Mapping[str, str], own: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return headers as they may be sent; raises ValueError."""
    taken = {name.lower() for name, _ in own} | _OF_CONNECTION
    for name, value in extra.items():
        if not _TOKEN.fullmatch(name) or name.lower() in taken:
            raise ValueError(f"extra_headers: {name!r} is no name of a header, or one that the client sends itself")
        if not value.isascii() or not value.isprintable():
            raise ValueError(f"extra_headers: {name}: expected printable ASCII characters")
        taken.add(name.lower())
    return list(extra.items())


def _body(fields: Mapping[str, Any]) -> bytes:
    given = {name: _plain(value) for name, value in fields.items() if value is not None}
    try:
        return json.dumps(given, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except UnicodeEncodeError:
        # Half of a character, such as text leaves that was cut by somebody who counts in UTF-16.
        raise ValueError(f"{_unwritable(given)}: holds half a surrogate pair, which is no character") from None
    except ValueError as error:
        raise ValueError(f"the call cannot be written as JSON: {error}") from None


def _plain(value: Any) -> Any:
    """Return a collection of any kind as the one that JSON has."""
    if isinstance(value, Mapping):
        return dict(value)
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else value


def _unwritable(fields: Mapping[str, Any]) -> str:
    return next(name for name, value in fields.items() if not _is_writable(value))


def _is_writable(value: Any) -> bool:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return False
    return True

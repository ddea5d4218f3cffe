"""Every field that a vendor's own client can send: it reaches a provider of another format, is refused by name, or is
among those that docs/clients.md says are left out."""

import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import pytest

from harness.documented import Case, cases
from tollhouse.completions.wire.base import in_its_words
from tollhouse.completions.wire.registry import CLIENT_APIS, GEMINI_VERBS
from tollhouse.errors import InvalidRequest
from tollhouse.providers.base import Adapter
from tollhouse.providers.registry import adapter_for

CLIENTS = {
    "chat": CLIENT_APIS["/v1/chat/completions"],
    "responses": CLIENT_APIS["/v1/responses"],
    "messages": CLIENT_APIS["/v1/messages"],
    "gemini": GEMINI_VERBS["generateContent"][0],
}
PROVIDERS: dict[str, tuple[str, Adapter]] = {
    "anthropic": ("claude-opus-4-5", adapter_for("anthropic", base_url="https://a.example.com", api_key="")),
    "openai": ("m", adapter_for("openai", base_url="https://o.example.com", api_key="")),
    "deepseek": ("deepseek-chat", adapter_for("deepseek", base_url="https://d.example.com", api_key="")),
    "gemini": ("gemini-2.5-flash", adapter_for("gemini", base_url="https://g.example.com", api_key="")),
}
TRANSLATED = [
    (client, provider)
    for client, api in CLIENTS.items()
    for provider, (_, adapter) in PROVIDERS.items()
    if adapter.dialect(api.name) is None
]
DOCUMENT = Path(__file__).parents[4] / "docs" / "clients.md"
# What a field may say that asks for nothing: what a request that leaves it out gets as well.
IDLE: dict[str, tuple[Any, ...]] = {
    "model": ("m",),
    "n": (1,),
    "candidateCount": (1,),
    "stream": (False,),
    "verbosity": ("medium",),
    "truncation": ("disabled",),
    "service_tier": ("auto", "default"),
    "speed": ("standard",),
    "parallel_tool_calls": (True,),
    "disable_parallel_tool_use": (False,),
    "mode": ("MODE_UNSPECIFIED",),
    "thinkingLevel": ("THINKING_LEVEL_UNSPECIFIED",),
    "threshold": ("OFF", "BLOCK_NONE", "HARM_BLOCK_THRESHOLD_UNSPECIFIED"),
    "role": ("x",),
    "type": ("custom", "message"),
    "modalities": (["text"],),
    "allowed_callers": (["direct"],),
}
ROLES = ("system", "developer", "user", "assistant", "tool", "function")
ALWAYS_IDLE: tuple[Any, ...] = (False, 0, {}, [{}], {"type": "text"})


@cache
def left_out() -> tuple[str, ...]:
    """Return the fields that the documentation says are left out."""
    table = DOCUMENT.read_text(encoding="utf-8").split("| field | what becomes of it |")[1].split("\n\n")[0]
    rows = [row for row in table.splitlines() if row.startswith("| `")]
    return tuple(name for row in rows for name in re.findall(r"`([^`]+)`", row.split(" | ")[0]))


def in_context(client: str, body: dict[str, Any]) -> dict[str, Any]:
    """Return a request with what fields refer to: a call by the model, and the tool that it called."""
    parameters = {"type": "object"}
    asked: dict[str, Any] = {"model": "m", **body}
    match client:
        case "chat":
            call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
            turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "", "tool_calls": [call]}]
            asked["messages"] = [*turns, *body.get("messages", [{"role": "user", "content": "q"}])]
            tools: list[Any] = [{"type": "function", "function": {"name": "f", "description": "its own"}}]
            limit = "max_completion_tokens"
        case "responses":
            given = body.get("input", "q")
            turns = [
                {"role": "user", "content": "hi"},
                {"type": "function_call", "call_id": "c1", "name": "f", "arguments": "{}"},
            ]
            asked["input"] = [*turns, *(given if isinstance(given, list) else [{"role": "user", "content": given}])]
            tools = [{"type": "function", "name": "f", "description": "its own", "parameters": parameters}]
            limit = "max_output_tokens"
        case "messages":
            used = {"type": "tool_use", "id": "c1", "name": "f", "input": {}}
            turns = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": [used]}]
            asked["messages"] = [*turns, *body.get("messages", [{"role": "user", "content": "q"}])]
            tools = [{"name": "f", "description": "its own", "input_schema": parameters}]
            limit = "max_tokens"
        case _:
            called = {"functionCall": {"id": "c1", "name": "f", "args": {}}}
            turns = [{"role": "user", "parts": [{"text": "hi"}]}, {"role": "model", "parts": [called]}]
            asked["contents"] = [*turns, *body.get("contents", [{"role": "user", "parts": [{"text": "q"}]}])]
            tools = [{"functionDeclarations": [{"name": "f", "description": "its own"}]}]
            limit = ""
    # Enough to think with.
    return {**({limit: 9000} if limit else {}), "tools": tools, **asked}


def sent(client: str, provider: str, body: dict[str, Any]) -> Any:
    """Return what a provider gets of a request, or the words with which it is refused."""
    api = CLIENTS[client]
    model, adapter = PROVIDERS[provider]
    try:
        asked = api.read(json.dumps(in_context(client, body)).encode(), "m")
        request = msgspec.structs.replace(api.translated(asked, asked.max_tokens or 9000), model=model)
    except InvalidRequest as refusal:
        return str(refusal)
    try:
        return json.loads(adapter.encode(request).body)
    except InvalidRequest as refusal:
        return str(in_its_words(refusal, api.names))


def names_of(path: str) -> list[str]:
    """Return the fields on the way to a field, without the kinds of the objects that hold them."""
    return re.sub(r"<[^<>]*>|\[\]", "", path).split(".")


def kinds_of(path: str) -> list[str]:
    """Return the kinds of the objects on the way to a field, but for whose turn it stands in."""
    return [kind for kind in re.findall(r"<([^<>]*)>", path) if kind not in ROLES]


def named_in(refusal: str) -> set[str]:
    """Return the names in the paths that a refusal begins with."""
    return set(re.split(r"[\[\].:, ]+", refusal.split(": ", maxsplit=1)[0]))


def is_left_out(case: Case) -> bool:
    """Tell whether a field asks for nothing, or is documented to be left out."""
    names, kinds = names_of(case.path), kinds_of(case.path)
    if case.value in ALWAYS_IDLE or case.value in IDLE.get(names[-1], ()):
        return True
    # Whatever is within what is left out is left out with it; an object is named by its kind.
    dotted = f".{'.'.join(names)}."
    return any(f".{name}." in dotted or name in kinds for name in left_out())


@pytest.mark.parametrize(("client", "provider"), TRANSLATED)
def test_a_field_arrives_or_is_refused_by_name_or_is_documented_to_be_left_out(client, provider):
    dropped, unnamed = [], []
    for case in cases(client):
        with_it = sent(client, provider, case.with_it)
        without = sent(client, provider, case.without)
        if with_it != without:
            if isinstance(with_it, str) and not named_in(with_it) & set(names_of(case.path)):
                unnamed.append((case.path, with_it))
        elif not isinstance(with_it, str) and case.with_it != case.without and not is_left_out(case):
            dropped.append((case.path, case.value))
    assert dropped == []
    assert unnamed == []


def test_what_is_documented_to_be_left_out_is_known_to_some_client():
    paths = [case.path for client in CLIENTS for case in cases(client)]
    known = {name for path in paths for name in (*names_of(path), *kinds_of(path))}
    of_headers = {"anthropic-beta", "openai-beta"}
    assert {name.split(".")[-1] for name in left_out()} <= known | of_headers

"""A conversation that goes on with another vendor's model: what one vendor signed reaches that vendor, and no other.

A client sends an answer back as it got it. Each vendor refuses what it has not signed itself, so that an answer of one
must not spoil the conversation for a fallback, or for whoever changes the model in its midst.
"""

import base64
import json
from typing import Any

import msgspec
import pytest

from tollhouse.completions.wire.base import AnswerHead
from tollhouse.completions.wire.registry import CLIENT_APIS, GEMINI_VERBS
from tollhouse.providers.base import Adapter
from tollhouse.providers.conversation import ProviderAnswer, Text, Thinking, ToolCall
from tollhouse.providers.gemini.foreign import UNSIGNED
from tollhouse.providers.registry import DEFAULT_BASE_URLS, adapter_for
from tollhouse.providers.usage import Usage

CLIENTS = {
    "chat": CLIENT_APIS["/v1/chat/completions"],
    "responses": CLIENT_APIS["/v1/responses"],
    "messages": CLIENT_APIS["/v1/messages"],
    "gemini": GEMINI_VERBS["generateContent"][0],
}
MODELS = {"anthropic": "claude-opus-4-5", "openai": "gpt-5", "deepseek": "deepseek-chat", "gemini": "gemini-3-pro"}
# Where Google serves OpenAI's format.
GOOGLES_CHAT = "https://generativelanguage.googleapis.com/v1beta/openai"
HEAD = AnswerHead("req_0199", "m", 1_790_000_000)
SIGNED = base64.b64encode(b"a proof").decode()
REDACTED = base64.b64encode(b"a secret").decode()
CALL = ToolCall("c1", "look", '{"at":"it"}')
MADE: dict[str, tuple[Text | ToolCall | Thinking, ...]] = {
    "anthropic": (Thinking("hm", SIGNED), Thinking("", redacted=REDACTED), Text("So:"), CALL),
    "google": (Text("So:"), ToolCall("c1", "look", '{"at":"it"}', SIGNED)),
    "nobody": (Thinking("hm"), Text("So:"), CALL),
}


def provider(kind: str, url: str | None = None) -> Adapter:
    return adapter_for(kind, base_url=url or DEFAULT_BASE_URLS[kind], api_key="k" * 20)


# What is relayed: a vendor's answer in its own format, and so without any mark.
AT = {"at": "it"}
RELAYED: dict[tuple[str, str], Any] = {
    ("messages", "anthropic"): {
        "content": [
            {"type": "thinking", "thinking": "hm", "signature": SIGNED},
            {"type": "redacted_thinking", "data": REDACTED},
            {"type": "text", "text": "So:"},
            {"type": "tool_use", "id": "c1", "name": "look", "input": AT},
        ]
    },
    ("gemini", "google"): {
        "candidates": [
            {
                "content": {
                    "role": "model",
                    "parts": [
                        {"text": "So:"},
                        {"functionCall": {"id": "c1", "name": "look", "args": AT}, "thoughtSignature": SIGNED},
                    ],
                }
            }
        ]
    },
}


def told(client: str, maker: str) -> Any:
    """Return an answer of a vendor as a client gets it whole."""
    if (relayed := RELAYED.get((client, maker))) is not None:
        return relayed
    parts = MADE[maker]
    answer = ProviderAnswer("So:", "tool_calls", None, parts=parts)
    return json.loads(CLIENTS[client].answer(answer, Usage(), HEAD))


def history(client: str, said: Any) -> dict[str, Any]:
    """Return the request in which a client sends an answer back, with the result of its call."""
    match client:
        case "chat":
            return {
                "model": "m",
                "messages": [
                    {"role": "user", "content": "Look"},
                    said["choices"][0]["message"],
                    {"role": "tool", "tool_call_id": "c1", "content": "seen"},
                ],
            }
        case "responses":
            result: dict[str, Any] = {"type": "function_call_output", "call_id": "c1", "output": "seen"}
            return {"model": "m", "input": [{"role": "user", "content": "Look"}, *said["output"], result]}
        case "messages":
            result = {"type": "tool_result", "tool_use_id": "c1", "content": "seen"}
            turns = [
                {"role": "user", "content": "Look"},
                {"role": "assistant", "content": said["content"]},
                {"role": "user", "content": [result]},
            ]
            return {"model": "m", "max_tokens": 9000, "messages": turns}
    result = {"functionResponse": {"id": "c1", "name": "look", "response": {"output": "seen"}}}
    contents = [{"role": "user", "parts": [{"text": "Look"}]}, said["candidates"][0]["content"]]
    return {"contents": [*contents, {"role": "user", "parts": [result]}]}


def sent(client: str, adapter: Adapter, model: str, said: Any) -> str:
    """Return what a provider gets of a conversation: relayed where it speaks the client's format, else translated."""
    api = CLIENTS[client]
    asked = api.read(json.dumps(history(client, said)).encode(), "m")
    dialect = adapter.dialect(api.name)
    if dialect is None:
        wire = adapter.encode(msgspec.structs.replace(api.translated(asked, 9000), model=model))
    else:
        wire = dialect.relay(api.limited(asked, 9000), model=model, stream=False, headers={})
    return wire.body.decode()


@pytest.mark.parametrize("kind", [*MODELS, "google's chat"])
@pytest.mark.parametrize("client", CLIENTS)
def test_what_a_vendor_signed_reaches_it_again_and_no_other(client, kind):
    url = GOOGLES_CHAT if kind == "google's chat" else None
    model = MODELS.get(kind, "gemini-3-pro")
    adapter = provider("openai" if url else kind, url)
    for maker in MADE:
        if kind == "google's chat" and (client == "chat" or (client, maker) in RELAYED):
            # One may have made these fields itself, and gets them as they came; the other never gets to see them, as
            # who speaks Google's own format to Google's models is relayed.
            continue
        body = sent(client, adapter, model, told(client, maker))
        assert "So:" in body
        assert "seen" in body
        is_googles = kind in {"gemini", "google's chat"}
        is_makers = maker == ("google" if is_googles else kind)
        assert (SIGNED in body) == is_makers, (maker, body)
        assert (REDACTED in body) == (is_makers and maker == "anthropic"), (maker, body)
        assert "tollhouse" not in body.lower()
        assert base64.b64encode(b"tollhouse")[:8].decode() not in body
        if kind == "gemini" and maker != "google":
            assert UNSIGNED in body, "Google's newer models refuse calls that say nothing of a signature"


def test_an_older_model_of_googles_is_not_told_of_a_signature_it_does_not_know():
    body = sent("gemini", provider("gemini"), "gemini-2.5-flash", told("gemini", "anthropic"))
    assert "thoughtSignature" not in body


@pytest.mark.parametrize("client", CLIENTS)
def test_thinking_that_nobody_signed_goes_back_to_those_who_want_it(client):
    adapter = provider("deepseek", "https://deepseek.example.com")
    turns = json.loads(sent(client, adapter, "deepseek-chat", told(client, "nobody")))["messages"]
    (turn,) = [turn for turn in turns if turn["role"] == "assistant"]
    assert turn["reasoning_content"] == "hm"

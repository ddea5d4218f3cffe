"""One question in each client's format, and what was answered to it, whole or streamed."""

import json
from typing import Any

from harness.service import Reply, Service, TenantId
from tollhouse.providers.sse import EventParser

MODELS = {
    "chat": "gpt-4o-mini",
    "responses": "gpt-4o-mini",
    "messages": "claude-haiku-4-5",
    "gemini": "gemini-2.5-flash",
}
"""By client, the model to which its calls are relayed."""
_PATHS = {
    "native": "/ai/complete",
    "chat": "/v1/chat/completions",
    "responses": "/v1/responses",
    "messages": "/v1/messages",
}


def body_for(
    client: str, model: str, said: str, *, stream: bool = False, system: str = "", **more: Any
) -> dict[str, Any]:
    """Return a request's body."""
    turns = [{"role": "user", "content": said}]
    match client:
        case "native":
            body: dict[str, Any] = {"model": model, "user_message": said, "system_prompt": system, "stream": stream}
        case "chat":
            first = [{"role": "system", "content": system}] if system else []
            body = {"model": model, "messages": first + turns, "max_tokens": 100, "stream": stream}
        case "responses":
            body = {"model": model, "input": said, "instructions": system, "max_output_tokens": 100, "stream": stream}
        case "messages":
            body = {"model": model, "messages": turns, "max_tokens": 100, "stream": stream}
            body |= {"system": system} if system else {}
        case _:
            body = {
                "contents": [{"role": "user", "parts": [{"text": said}]}],
                "generationConfig": {"maxOutputTokens": 100},
            }
            body["stream"] = stream
            body |= {"systemInstruction": {"parts": [{"text": system}]}} if system else {}
    return body | more


def ask(
    service: Service, client: str, model: str, body: dict[str, Any], *, tenant: TenantId, feature: str, **headers: str
) -> Reply:
    """Send a request."""
    if client == "native":
        return service.complete(body | {"tenant_id": tenant, "feature_slug": feature}, **headers)
    path = _PATHS.get(client)
    if path is None:
        # Google's path says which it is to be.
        verb = "streamGenerateContent?alt=sse" if body.get("stream") else "generateContent"
        path = f"/v1beta/models/{model}:{verb}"
        body = {name: value for name, value in body.items() if name != "stream"}
    return service.request("POST", path, body, X_Tenant_Id=str(tenant), X_Feature_Slug=feature, **headers)


def events_of(reply: Reply) -> list[tuple[str, Any]]:
    """Return a stream's events: name and JSON."""
    return [
        (event.name, json.loads(event.data))
        for event in EventParser(1 << 22).feed(reply.body)
        if event.data not in {b"", b"[DONE]"}
    ]


def said_by(client: str, reply: Reply) -> str:
    """Return the text of an answer, put together from its pieces if it was streamed."""
    assert reply.status == 200, reply
    if reply.headers["content-type"].startswith("text/event-stream"):
        return "".join(_piece(client, name, event) for name, event in events_of(reply))
    body = reply.json
    match client:
        case "native":
            return str(body["content"])
        case "chat":
            return str(body["choices"][0]["message"]["content"])
        case "messages":
            return "".join(block.get("text", "") for block in body["content"])
        case "responses":
            return "".join(part["text"] for item in body["output"] for part in item.get("content") or ())
    return "".join(part.get("text", "") for part in body["candidates"][0]["content"]["parts"])


def _piece(client: str, name: str, event: Any) -> str:
    match client:
        case "native":
            return str(event["content"]) if name == "delta" else ""
        case "chat":
            return "".join(choice["delta"].get("content") or "" for choice in event.get("choices", ()))
        case "messages":
            return str(event["delta"].get("text", "")) if event["type"] == "content_block_delta" else ""
        case "responses":
            return str(event["delta"]) if event["type"] == "response.output_text.delta" else ""
    candidates = event.get("candidates", ())
    return "".join(part.get("text", "") for each in candidates for part in each["content"].get("parts", ()))

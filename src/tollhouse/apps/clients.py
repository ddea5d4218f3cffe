"""The addresses of existing clients' APIs, as the OpenAPI document shows them; the hot path serves them."""

from typing import Any

from litestar import post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, JSONBody

from tollhouse.apps.openapi import COMPLETION_RESPONSES, served_elsewhere

_ADDRESSES = {
    "/v1/chat/completions": "Complete a conversation in the format of OpenAI's chat completions, whole or streamed.",
    "/v1/responses": "Make a response in the format of OpenAI's Responses API, whole or streamed.",
    "/v1/embeddings": "Make embeddings in OpenAI's format.",
    "/v1/messages": "Complete a conversation in the format of Anthropic's Messages API, whole or streamed.",
    "/v1/messages/count_tokens": "Count a prompt's tokens in Anthropic's format; free, and estimated where need be.",
}


def _documented(path: str, text: str) -> HTTPRouteHandler:
    async def handler(data: JSONBody[dict[str, Any]]) -> dict[str, Any]:  # noqa: ARG001 - documented here alone
        raise AssertionError("the guard lets nothing through")

    handler.__doc__ = text
    handler.__name__ = path.removeprefix("/v1/").replace("/", "_")
    return post(
        path,
        status_code=200,
        guards=[served_elsewhere],
        tags=("Clients",),
        security=[{"bearer": []}],
        responses=COMPLETION_RESPONSES,
    )(handler)


@post(
    "/v1beta/models/{name:str}",
    status_code=200,
    guards=[served_elsewhere],
    tags=("Clients",),
    security=[{"bearer": []}],
    responses=COMPLETION_RESPONSES,
)
async def generate_content(name: FromPath[str], data: JSONBody[dict[str, Any]]) -> dict[str, Any]:  # noqa: ARG001
    """Generate content or embeddings in Google's format: a model's name, a colon, and such as ``generateContent``."""
    raise AssertionError("the guard lets nothing through")


CLIENTS = (*(_documented(path, text) for path, text in _ADDRESSES.items()), generate_content)

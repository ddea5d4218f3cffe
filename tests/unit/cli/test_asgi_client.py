import asyncio

from tollhouse.cli.asgi_client import ask


def test_an_application_gets_a_whole_request_and_its_answer_is_put_together():
    seen = {}

    async def app(scope, receive, send):
        seen.update(scope)
        seen["messages"] = [await receive(), await receive()]
        await send({"type": "http.response.start", "status": 404, "headers": []})
        await send({"type": "http.response.body", "body": b"not ", "more_body": True})
        await send({"type": "http.response.body", "body": b"here"})

    answer = asyncio.run(ask(app, "PUT", "/a%2Fb/c?d=e%20f", {"host": "localhost"}, b"{}"))

    assert answer == (404, b"not here")
    assert (seen["method"], seen["path"], seen["raw_path"]) == ("PUT", "/a/b/c", b"/a%2Fb/c")
    assert seen["query_string"] == b"d=e%20f"
    assert seen["headers"] == [(b"host", b"localhost")]
    assert seen["messages"] == [
        {"type": "http.request", "body": b"{}", "more_body": False},
        {"type": "http.disconnect"},
    ]

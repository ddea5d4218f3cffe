"""Calls of the fake provider, as a client of no vendor makes them."""

import contextlib
import http.client
import json
from typing import Any

import msgspec

from tollhouse.testing import FakeProvider


class Answer(msgspec.Struct):
    """What came, and the error that ended it before it was whole."""

    status: int
    headers: dict[str, str]
    body: bytes
    error: Exception | None = None

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def events(self) -> list[tuple[str, Any]]:
        """Names and data; the data decoded where it is JSON."""
        blocks = self.body.decode().replace("\r\n", "\n").split("\n\n")
        assert blocks.pop() == "", "the last event is not ended"
        return [_event(block) for block in blocks]

    @property
    def data(self) -> list[Any]:
        return [data for _, data in self.events]


def _event(block: str) -> tuple[str, Any]:
    fields = dict(line.split(": ", 1) for line in block.split("\n"))
    try:
        return fields.get("event", ""), json.loads(fields["data"])
    except json.JSONDecodeError:
        return fields.get("event", ""), fields["data"]


def post(fake: FakeProvider, path: str, body: Any, timeout_s: float = 10) -> Answer:
    """Return an answer as far as it came, with the error that ended it."""
    connection = http.client.HTTPConnection("127.0.0.1", fake.port, timeout=timeout_s)
    with contextlib.closing(connection):
        connection.request("POST", path, json.dumps(body), {"content-type": "application/json"})
        response = connection.getresponse()
        answer = Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, b"")
        try:
            while part := response.read1():
                answer.body += part
        except (http.client.HTTPException, OSError) as error:
            answer.error = error
        return answer

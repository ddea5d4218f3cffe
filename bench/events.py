"""``python -m bench.events PORT INTERVAL_S SECONDS``: a provider whose every event says when it was sent.

It answers each call with a stream in OpenAI's format: one event at once, the next ones at random moments of the
interval and then one each interval, so that the events of many streams are spread evenly.
"""

import asyncio
import random
import sys
import time

import uvloop

_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
_EVENT = (
    b'data: {"id":"chatcmpl-Dyln6nXFb07wOIPj5NWCmPOcd3GOs","object":"chat.completion.chunk","created":1783375760,'
    b'"model":"gpt-4o-mini-2024-07-18","service_tier":"default","system_fingerprint":"fp_f38e8ce955","choices":%b,'
    b'"usage":%b}\n\n'
)
_GROWN = b'[{"index":0,"delta":{"content":"%d "},"logprobs":null,"finish_reason":null}]'
_FINISHED = b'[{"index":0,"delta":{},"logprobs":null,"finish_reason":"stop"}]'
_USAGE = b'{"prompt_tokens":86,"completion_tokens":44,"total_tokens":130}'


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class _Connection(asyncio.Protocol):
    def __init__(self, interval_s: float, seconds: float) -> None:
        self._interval_s, self._seconds = interval_s, seconds
        self._loop = asyncio.get_running_loop()
        self._received = b""
        self._ends_s = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - whatever the reason
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._received += data
        head, end, body = self._received.partition(b"\r\n\r\n")
        lines = head.lower().split(b"\r\n")
        length = next((int(line.partition(b":")[2]) for line in lines if line.startswith(b"content-length:")), 0)
        if end and len(body) >= length:
            self._received = body[length:]
            self._ends_s = self._loop.time() + self._seconds
            self._transport.write(_HEAD + _grown())
            self._go_on_after(random.uniform(0, self._interval_s))

    def _go_on_after(self, delay_s: float) -> None:
        self._timer = self._loop.call_later(delay_s, self._go_on)

    def _go_on(self) -> None:
        if self._loop.time() < self._ends_s:
            self._transport.write(_grown())
            self._go_on_after(self._interval_s)
            return
        last = (_EVENT % (_FINISHED, b"null"), _EVENT % (b"[]", _USAGE), b"data: [DONE]\n\n")
        self._transport.write(b"".join(map(_chunk, last)) + b"0\r\n\r\n")


def _grown() -> bytes:
    return _chunk(_EVENT % (_GROWN % time.monotonic_ns(), b"null"))


async def _serve(port: int, interval_s: float, seconds: float) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(interval_s, seconds), "127.0.0.1", port, backlog=4096)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(_serve(int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])))

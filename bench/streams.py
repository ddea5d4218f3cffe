"""Streams: what an open one holds in memory, and what passing its events on costs and delays."""

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median, quantiles

import msgspec
import uvloop

from bench import nginx
from bench.arithmetic import significant
from bench.cases import Bench, Plan, Row
from bench.processes import cpu_s, resident_bytes, stop
from bench.service import TENANT, Service, running

STREAMS = 1000
# Each stream gets two events a second, and so 2,000 a second go through.
_INTERVAL_S = 0.5
# Calls are made one after the other over so long.
_SPREAD_S = 4.0
_MARK = b'"content":"'
_ASKED = {
    "model": "gpt-4o-mini",
    "messages": [
        {"role": "system", "content": "You are a sales analyst. Be brief and precise."},
        {"role": "user", "content": "Summarise today's sales: tea 120, coffee 80, bread 200, milk 95, sugar 40."},
    ],
    "max_tokens": 400,
    "stream": True,
}


class Passage(msgspec.Struct):
    """What became of the events of many streams.

    Attributes:
        answered_us: from sending each call until its first event was there.
        first_us: from the provider's sending of each first event to its arrival.
        delays_us: of the events of the time during which all were open: from the provider's sending to their arrival.
        cpu_us: of the process in between, for each of these events.
        held_bytes: by the process for each open stream.
    """

    answered_us: list[float] = []
    first_us: list[float] = []
    delays_us: list[float] = []
    cpu_us: float = 0.0
    held_bytes: float = 0.0


class _Reader(asyncio.Protocol):
    """One streamed call."""

    def __init__(self, passage: Passage, request: bytes) -> None:
        self.ended = asyncio.get_running_loop().create_future()
        self._passage = passage
        self._request = request
        self._sent_ns = 0
        self._last = b""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._transport = transport
        self._sent_ns = time.monotonic_ns()
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        now_ns = time.monotonic_ns()
        position = data.find(_MARK)
        while position >= 0:
            stamp = data[position + len(_MARK) : data.find(b" ", position)]
            self._passage.delays_us.append((now_ns - int(stamp)) / 1000)
            if self._sent_ns:
                self._passage.first_us.append(self._passage.delays_us[-1])
                self._passage.answered_us.append((now_ns - self._sent_ns) / 1000)
                self._sent_ns = 0
            position = data.find(_MARK, position + 1)
        self._last = (self._last + data)[-40:]
        if self._last.endswith(b"0\r\n\r\n"):
            self._end()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - whatever the reason
        self._end()

    def _end(self) -> None:
        if not self.ended.done():
            self.ended.set_result(self._last.endswith(b"\n\n\r\n0\r\n\r\n"))
        self._transport.close()


def streams(bench: Bench) -> list[Row]:
    """1,000 streams at once through one process, beside nginx's bare ``proxy_pass`` without buffers."""
    seconds = bench.plan.duration_s + _SPREAD_S + 2
    bare: list[Passage] = []
    served: dict[str, list[Passage]] = {"relayed": [], "translated": []}
    with _provider(seconds) as port:
        for number in range(bench.plan.rounds):
            # New processes each time: what the streams before have left is no part of what these hold.
            with nginx.proxy(bench.home, port, f"streams-{number}", is_buffering=False) as proxy:
                bare.append(_measured(proxy.port, proxy.pid, _post("/v1/chat/completions", "", _ASKED), bench.plan))
            for how, passages in served.items():
                with running(bench.plan.build, bench.home / f"streams-{how}-{number}", port) as service:
                    request = _relayed(service) if how == "relayed" else _translated(service)
                    passages.append(_measured(service.port, service.pid, request, bench.plan))
    return [row for how, passages in served.items() for row in _rows(how, passages, bare)]


def _rows(how: str, served: list[Passage], bare: list[Passage]) -> list[Row]:
    what = f"{STREAMS:,} streams at once, {how}"
    held = f"{_middle(served, lambda each: each.held_bytes / 1024)} KiB"
    figures = [
        Row(f"{what}: memory for each", f"**{held}** (nginx {_middle(bare, lambda each: each.held_bytes / 1024)} KiB)"),
        Row("… CPU for each event", _beside(served, bare, lambda each: each.cpu_us, "µs")),
    ]
    for name, percent in (("p50", 50), ("p99", 99)):
        added = _added(served, bare, lambda each: _percentile(each.delays_us, percent))  # noqa: B023 - used at once
        figures.append(Row(f"… added to the delay of an event, {name}", added))
    added = _added(served, bare, lambda each: _percentile(each.first_us, 50))
    figures.append(Row("… added to the delay of the first event, p50", added))
    added = _added(served, bare, lambda each: _percentile(each.answered_us, 50))
    figures.append(Row("… added from the call to its first event, p50: its admission, made durable", added))
    return figures


def _middle(passages: list[Passage], figure) -> str:
    return significant(median(map(figure, passages)))


def _beside(served: list[Passage], bare: list[Passage], figure, unit: str) -> str:
    return f"**{_middle(served, figure)} {unit}** (nginx {_middle(bare, figure)} {unit})"


def _added(served: list[Passage], bare: list[Passage], figure) -> str:
    added = median(figure(each) - figure(base) for each, base in zip(served, bare, strict=True))
    return f"**{significant(added / 1000)} ms** (nginx alone {significant(median(map(figure, bare)) / 1000)} ms)"


def _percentile(values: list[float], percent: int) -> float:
    return quantiles(values, n=100)[percent - 1]


def _measured(port: int, pid: int, request: bytes, plan: Plan) -> Passage:
    return uvloop.run(_pass(port, pid, request, plan.duration_s))


async def _pass(port: int, pid: int, request: bytes, duration_s: float) -> Passage:
    """Open all streams, watch them for a while, and wait for their ends."""
    passage = Passage()
    warm_up = [_Reader(Passage(), request) for _ in range(20)]
    for reader in warm_up:
        await _connect(reader, port)
    await asyncio.sleep(1)
    before_bytes = resident_bytes(pid)
    readers = [_Reader(passage, request) for _ in range(STREAMS)]
    for reader in readers:
        await _connect(reader, port)
        await asyncio.sleep(_SPREAD_S / STREAMS)
    passage.held_bytes = (resident_bytes(pid) - before_bytes) / STREAMS
    passage.delays_us.clear()
    before_s = cpu_s(pid)
    await asyncio.sleep(duration_s)
    passage.cpu_us = (cpu_s(pid) - before_s) / max(1, len(passage.delays_us)) * 1e6
    delays_us, passage.delays_us = passage.delays_us, []
    whole = await asyncio.gather(*(reader.ended for reader in readers))
    await asyncio.gather(*(reader.ended for reader in warm_up))
    if not all(whole):
        raise RuntimeError(f"{whole.count(False)} of {STREAMS} streams failed; a figure from them would mean nothing")
    passage.delays_us = delays_us
    return passage


async def _connect(reader: _Reader, port: int) -> None:
    await asyncio.get_running_loop().create_connection(lambda: reader, "127.0.0.1", port)


def _relayed(service: Service) -> bytes:
    return _post("/v1/chat/completions", service.key, _ASKED)


def _translated(service: Service) -> bytes:
    whose = {"tenant_id": TENANT, "user_id": 101, "feature_slug": "sales-summary"}
    return _post("/ai/complete", service.key, {**whose, **_ASKED})


def _post(path: str, key: str, body: object) -> bytes:
    raw = json.dumps(body).encode()
    lines = [
        f"POST {path} HTTP/1.1",
        "host: 127.0.0.1",
        f"authorization: Bearer {key}",
        "content-type: application/json",
        f"content-length: {len(raw)}",
        f"x-tenant-id: {TENANT}",
        "x-user-id: 101",
        "x-feature-slug: sales-summary",
    ]
    return "\r\n".join([*lines, "", ""]).encode() + raw


@contextmanager
def _provider(seconds: float) -> Iterator[int]:
    port = nginx.free_port()
    command = [sys.executable, "-m", "bench.events", str(port), str(_INTERVAL_S), str(seconds)]
    process = subprocess.Popen(command, text=True)
    try:
        nginx.await_port(port)
        yield port
    finally:
        stop(process)

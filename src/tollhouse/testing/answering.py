"""What a call is answered with: the bytes, the way they are delivered, and what is billed for them."""

import gzip
import re
import zlib
from collections.abc import Iterator, Mapping
from itertools import chain, islice
from typing import Any, Literal

import msgspec

from tollhouse.testing.behaviour import Behaviour, Exchange, Tokens
from tollhouse.testing.billing import Bill, Call, bill
from tollhouse.testing.formats.base import WireFormat
from tollhouse.testing.server import Delivery, Stream

_KEY_HEADERS = ("authorization", "x-api-key", "api-key", "x-goog-api-key")
# Errors that an intermediary makes up after the provider may have done the work.
_LOST_BEHIND = frozenset({502, 504})
_GARBAGE = b"<html><body>It works!</body></html>"
_BARE = b"<html><head><title>Error</title></head><body>nginx</body></html>"
# What ends an event is part of it.
_RECORDED_EVENT = re.compile(rb".+?(?:\r\n\r\n|\n\n|\r\r|\Z)", re.DOTALL)

_Ending = Literal["whole", "close", "reset", "hang"]


class Planned(msgspec.Struct, frozen=True):
    """An answer that is about to be delivered, and what it costs."""

    delivery: Delivery
    tokens: Tokens
    billed: bool


def plan(form: WireFormat, call: Call, answer_id: str, told: Behaviour, headers: Mapping[str, str]) -> Planned:
    """Return the answer that a behaviour tells to give."""
    cost = bill(call, told)
    cost = msgspec.structs.replace(cost, tokens=form.fold(cost.tokens))
    if told.status is not None:
        billed = told.bare and told.status in _LOST_BEHIND
        delivery = _whole(form, told, answer_id, _refusal(form, told, headers))
    elif call.is_streamed:
        # An error that comes first is an error like any other.
        billed = told.error_after_events != 0
        delivery = _streamed(form, call, answer_id, cost, told)
    else:
        billed = True
        delivery = _whole(form, told, answer_id, form.answer(call, answer_id, cost, told))
    billed = billed and not form.is_free
    return Planned(delivery, cost.tokens if billed else Tokens(), billed)


def replay(exchange: Exchange) -> Planned:
    """Return a recorded answer, which is not read."""
    response = exchange.response
    body = response.encode() if isinstance(response, str) else msgspec.json.encode(response)
    if exchange.stream:
        stream = Stream(iter(_RECORDED_EVENT.findall(body)))
        delivery = Delivery(exchange.status, content_type=exchange.content_type or "text/event-stream", stream=stream)
    else:
        delivery = Delivery(exchange.status, body, exchange.content_type or "application/json")
    return Planned(delivery, Tokens(), exchange.status < 400)


def key_of(headers: Mapping[str, str]) -> str:
    """Return the key that a call carries, in whichever header; "" for none."""
    return next((headers[name] for name in _KEY_HEADERS if headers.get(name)), "")


def _whole(form: WireFormat, told: Behaviour, answer_id: str, body: bytes) -> Delivery:
    headers = _headers(form, answer_id)
    content_type = "application/json"
    if told.status is not None and told.bare:
        body, content_type = _BARE, "text/html"
    if told.garbage:
        body = _GARBAGE
    if told.status is not None and told.retry_after_s is not None and form.name != "gemini":
        headers.append(("retry-after", f"{told.retry_after_s:g}"))
    if told.gzip:
        body = gzip.compress(body, compresslevel=1)
        headers.append(("content-encoding", "gzip"))
    fate: Any = "never" if told.hang else "whole"
    if told.reset is not None:
        fate = "reset_before" if told.reset == "before_answer" else "reset_mid"
    return Delivery(
        status=told.status or 200,
        body=body,
        content_type=content_type,
        headers=tuple(headers),
        delay_s=told.delay_s,
        fate=fate,
        keep_alive=not told.no_keep_alive,
    )


def _streamed(form: WireFormat, call: Call, answer_id: str, cost: Bill, told: Behaviour) -> Delivery:
    headers = _headers(form, answer_id)
    events, ending = _ended(form, told, _with_garbage(form.events(call, answer_id, cost, told), told))
    if told.gzip:
        events = _compressed(events)
        headers.append(("content-encoding", "gzip"))
    fate: Literal["whole", "never", "reset_before"] = "never" if told.hang else "whole"
    if told.reset == "before_answer":
        fate = "reset_before"
    return Delivery(
        status=200,
        content_type=form.stream_type,
        headers=tuple(headers),
        delay_s=told.delay_s,
        fate=fate,
        keep_alive=not told.no_keep_alive,
        stream=Stream(events, told.chunk_delay_s, ending),
    )


def _with_garbage(events: Iterator[bytes], told: Behaviour) -> Iterator[bytes]:
    if not told.garbage:
        return events
    return chain(islice(events, 1), [b"data: %b\n\n" % _GARBAGE], events)


def _ended(form: WireFormat, told: Behaviour, events: Iterator[bytes]) -> tuple[Iterator[bytes], _Ending]:
    """Return as many events as are to be sent, and what follows the last of them."""
    if told.reset == "mid_answer":
        return islice(events, 1), "reset"
    if told.cut_after_events is not None:
        return islice(events, told.cut_after_events), "whole" if told.cut == "eof" else told.cut
    if told.hang_after_events is not None:
        return islice(events, told.hang_after_events), "hang"
    if told.error_after_events is not None:
        return _failing(form, told.reason, islice(events, told.error_after_events)), "whole"
    return events, "whole"


def _failing(form: WireFormat, reason: str, events: Iterator[bytes]) -> Iterator[bytes]:
    number = 0
    for event in events:
        yield event
        number += 1
    yield form.error_event(reason, number)


def _compressed(events: Iterator[bytes]) -> Iterator[bytes]:
    # Positive window bits beyond 16 ask for gzip's frame; each event is flushed, or the client would wait for it.
    compressor = zlib.compressobj(level=1, wbits=31)
    for event in events:
        yield compressor.compress(event) + compressor.flush(zlib.Z_SYNC_FLUSH)
    yield compressor.flush()


def _headers(form: WireFormat, answer_id: str) -> list[tuple[str, str]]:
    return [] if form.id_header is None else [(form.id_header, answer_id)]


def _refusal(form: WireFormat, told: Behaviour, headers: Mapping[str, str]) -> bytes:
    assert told.status is not None, "a refusal has a status"
    reason = told.reason
    if told.status == 401:
        # OpenAI and DeepSeek repeat the ends of the key they refuse: no caller must ever see that.
        key = key_of(headers).removeprefix("Bearer ")
        reason = f"Incorrect API key provided: {key[:8]}***{key[-4:]}."
    return form.error(told.status, reason, told.retry_after_s)

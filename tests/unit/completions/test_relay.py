"""Streamed answers: passed on as they come, settled before their end, and settled whatever becomes of them."""

import asyncio
import json
from typing import Any

import pytest

from harness.books import run_on_books
from harness.providers import Collected, Desk, Provider, Streaming, answer, event
from tollhouse.completions.native import NativeQuestion
from tollhouse.completions.relay import StreamBounds
from tollhouse.errors import CallTimeout, InternalError, Unavailable
from tollhouse.ledger.model import Settlement
from tollhouse.providers.base import NotSent, OutcomeUnknown, Overloaded, TimedOut, WireResponse
from tollhouse.providers.sse import EventParser

USAGE = {"input_tokens": 10, "output_tokens": 5}
FOUR = (event(text="fo"), event(text="ur"), event(finish="stop"), event(usage=USAGE))
COST = 15_000


def run(tmp_path, scenario, *steps, others=(), **how):
    async def on_books(books):
        await books.set_tenant(cap=10_000_000)
        providers = {"small": Provider(*steps)}
        providers.update({f"other{number}": Provider(step) for number, step in enumerate(others)})
        await scenario(Desk(books, providers, **how), Collected())

    run_on_books(tmp_path, on_books)


def events(sink):
    """Return the events that a caller got: name and decoded data, comments left out."""
    parsed = EventParser(1 << 20).feed(sink.data)
    return [(each.name, json.loads(each.data)) for each in parsed if each.data]


def said(sink):
    return "".join(data["content"] for name, data in events(sink) if name == "delta")


async def row(desk):
    (found,) = await desk.books.rows()
    return found


async def nothing_is_left(desk):
    assert "open" not in (await desk.books.reservations()).values()
    assert (await desk.books.verify()).findings == []


def test_a_stream_is_passed_on_and_ends_with_the_envelope(tmp_path):
    async def scenario(desk, sink):
        assert await desk.stream(sink) is None
        names = [name for name, _ in events(sink)]
        assert names == ["delta", "delta", "usage", "done"]
        assert said(sink) == "four"
        done = events(sink)[-1][1]
        assert (done["input_tokens"], done["output_tokens"], done["finish_reason"]) == (10, 5, "stop")
        assert (done["content"], done["cost_usd"]) == ("four", COST / 1e9)
        found = await row(desk)
        assert (found.status, found.usage_source, found.cost_nano_usd) == ("settled", "reported", COST)
        assert found.request_id == done["request_id"]
        await nothing_is_left(desk)

    run(tmp_path, scenario, Streaming(*FOUR))


def test_pieces_are_sent_as_they_come_and_the_end_only_once_the_row_is_durable(tmp_path):
    async def scenario(desk, sink):
        go_on = asyncio.Event()
        desk.providers["small"].steps = [Streaming(event(text="fo"), go_on.wait, *FOUR[1:])]
        call = asyncio.create_task(desk.stream(sink))
        while not said(sink):
            await asyncio.sleep(0)
        assert (said(sink), await desk.books.rows()) == ("fo", [])

        order = []
        settle, end = desk.books.ledger.settle, sink.end

        async def settling(settlement):
            await settle(settlement)
            order.append(f"{len(await desk.books.rows())} row")

        def ending(data):
            order.append("end")
            end(data)

        desk.books.ledger.settle, sink.end = settling, ending
        go_on.set()
        await call
        assert order == ["1 row", "end"]

    run(tmp_path, scenario)


@pytest.mark.parametrize(
    "early",
    [Overloaded("busy", status=529), NotSent("refused"), event(error="overloaded")],
    ids=["503", "connect", "event"],
)
def test_until_the_first_token_another_candidate_takes_over(tmp_path, early):
    broken = Streaming(early) if isinstance(early, bytes) else early

    async def scenario(desk, sink):
        await desk.stream(sink)
        assert said(sink) == "four"
        assert events(sink)[-1][1]["fallback_used"] is True
        assert desk.called == ["small", "small", "other0"]
        await nothing_is_left(desk)

    run(tmp_path, scenario, broken, others=[Streaming(*FOUR)])


def test_after_the_first_token_nobody_takes_over_and_an_error_ends_the_stream(tmp_path):
    async def scenario(desk, sink):
        assert await desk.stream(sink) is None
        assert [name for name, _ in events(sink)] == ["delta", "error"]
        assert events(sink)[-1][1]["error"] == "ai_unavailable"
        assert desk.called == ["small"]
        found = await row(desk)
        assert (found.status, found.usage_source, found.output_tokens) == ("settled", "estimated", 1)
        await nothing_is_left(desk)

    run(tmp_path, scenario, Streaming(event(text="fo"), event(error="overloaded")), others=[Streaming(*FOUR)])


@pytest.mark.parametrize("last", [event(error="overloaded"), b"data: no JSON\n\n"])
def test_what_comes_in_one_piece_with_an_error_is_passed_on_before_it(tmp_path, last):
    async def scenario(desk, sink):
        await desk.stream(sink)
        assert [name for name, _ in events(sink)] == ["delta", "delta", "error"]
        assert said(sink) == "four"
        await nothing_is_left(desk)

    run(tmp_path, scenario, Streaming(FOUR[0] + FOUR[1] + last))


@pytest.mark.parametrize(
    ("end", "code"),
    [(OutcomeUnknown("reset"), "ai_unavailable"), (TimedOut("it paused"), "ai_timeout"), (None, "ai_unavailable")],
)
def test_a_stream_that_is_cut_is_told_and_settled_by_what_came(tmp_path, end, code):
    pieces = [event(text="abcdef"), event(text="ghi"), *([end] if end else [])]

    async def scenario(desk, sink):
        await desk.stream(sink)
        assert (said(sink), events(sink)[-1][1]["error"]) == ("abcdefghi", code)
        found = await row(desk)
        assert (found.status, found.usage_source) == ("settled", "estimated")
        assert (found.input_tokens, found.output_tokens) == (4, 3)
        await nothing_is_left(desk)

    run(tmp_path, scenario, Streaming(*pieces))


def test_what_a_provider_reported_before_it_was_cut_counts(tmp_path):
    reported = event(usage={"input_tokens": 100, "cached_input_tokens": 50, "output_tokens": 1})

    async def scenario(desk, sink):
        await desk.stream(sink)
        found = await row(desk)
        assert (found.input_tokens, found.cached_input_tokens, found.output_tokens) == (100, 50, 3)
        assert found.usage_source == "estimated"

    run(tmp_path, scenario, Streaming(reported, event(text="abcdefghi"), OutcomeUnknown("reset")))


def test_a_usage_that_the_answer_has_outgrown_is_no_more_than_its_beginning(tmp_path):
    early = event(usage={"input_tokens": 100, "reasoning_tokens": 2, "output_tokens": 1})

    async def scenario(desk, sink):
        await desk.stream(sink)
        assert events(sink)[-1][0] == "done"
        found = await row(desk)
        assert (found.status, found.usage_source) == ("settled", "estimated")
        assert (found.input_tokens, found.reasoning_tokens, found.output_tokens) == (100, 2, 8)
        await nothing_is_left(desk)

    run(tmp_path, scenario, Streaming(early, event(text="x" * 30), event(finish="stop")))


@pytest.mark.parametrize("end", [OutcomeUnknown("reset"), TimedOut("it paused"), event(error="overloaded"), None])
def test_a_cut_stream_of_a_model_that_thinks_unseen_is_held_at_its_ceiling(tmp_path, end):
    pieces = [event(text="a", thinks=True), *([end] if end else [])]

    async def scenario(desk, sink):
        assert await desk.stream(sink) is None
        assert [name for name, _ in events(sink)] == ["delta", "error"]
        found = await row(desk)
        assert (found.status, found.cost_nano_usd) == ("unknown", (await desk.books.budget())[2])
        assert desk.called == ["small"]
        await nothing_is_left(desk)

    run(tmp_path, scenario, Streaming(*pieces), others=[Streaming(*FOUR)])


def test_a_whole_stream_of_a_model_that_thinks_unseen_is_settled(tmp_path):
    async def scenario(desk, sink):
        await desk.stream(sink)
        assert (await row(desk)).usage_source == "reported"

    run(tmp_path, scenario, Streaming(event(thinks=True), *FOUR))


def test_a_stream_that_ends_without_usage_is_estimated(tmp_path):
    async def scenario(desk, sink):
        await desk.stream(sink)
        assert events(sink)[-1][0] == "done"
        found = await row(desk)
        assert (found.status, found.usage_source, found.output_tokens) == ("settled", "estimated", 2)

    run(tmp_path, scenario, Streaming(*FOUR[:3]))


def test_what_is_cut_off_after_the_models_own_end_is_whole(tmp_path):
    async def scenario(desk, sink):
        await desk.stream(sink)
        assert [name for name, _ in events(sink)][-1] == "done"
        assert (await row(desk)).usage_source == "reported"

    run(tmp_path, scenario, Streaming(*FOUR, OutcomeUnknown("reset")))


def test_an_answer_that_fails_before_it_began_and_may_be_billed_is_held(tmp_path):
    async def scenario(desk, sink):
        with pytest.raises(Unavailable):
            await desk.stream(sink)
        assert not sink.has_begun
        assert (await row(desk)).status == "unknown"

    run(tmp_path, scenario, Streaming(OutcomeUnknown("reset")), others=[Streaming(*FOUR)])


def test_an_answer_that_has_not_begun_by_the_calls_deadline_is_a_timeout(tmp_path):
    async def scenario(desk, sink):
        with pytest.raises(CallTimeout):
            await desk.stream(sink, {"timeout_s": 0.05})
        assert (await row(desk)).status == "unknown"

    run(tmp_path, scenario, Streaming(asyncio.Event().wait))


def test_once_it_has_begun_a_stream_may_go_on_beyond_the_calls_deadline(tmp_path):
    async def scenario(desk, sink):
        await desk.stream(sink, {"timeout_s": 0.05})
        assert said(sink) == "four"

    run(tmp_path, scenario, Streaming(FOUR[0], lambda: asyncio.sleep(0.15), *FOUR[1:]))


def test_a_caller_who_leaves_has_the_answer_read_to_its_end_and_paid(tmp_path):
    async def scenario(desk, sink):
        def leave():
            sink.is_gone = True
            return asyncio.sleep(0)

        desk.providers["small"].steps = [Streaming(FOUR[0], lambda: asyncio.sleep(0.01), leave, *FOUR[1:])]
        await desk.stream(sink)
        assert said(sink) == "fo"
        found = await row(desk)
        assert (found.status, found.usage_source, found.cost_nano_usd) == ("settled", "reported", COST)
        await nothing_is_left(desk)

    run(tmp_path, scenario)


@pytest.mark.parametrize(
    "bounds", [StreamBounds(drain_bytes=30), StreamBounds(drain_timeout_s=0.05)], ids=["bytes", "seconds"]
)
def test_beyond_the_bounds_the_rest_is_given_up_and_held_at_its_ceiling(tmp_path, bounds):
    async def scenario(desk, sink):
        sink.is_gone = True
        pieces: list[Any] = [event(text="x"), lambda: asyncio.sleep(0.001)] * 1000
        streaming = Streaming(*pieces)
        desk.providers["small"].steps = [streaming]
        await desk.stream(sink)
        assert streaming.is_closed
        assert streaming.sent < 1000
        found = await row(desk)
        assert found.status == "unknown"
        assert found.cost_nano_usd == (await desk.books.budget())[2]

    run(tmp_path, scenario, bounds=bounds)


def test_while_nothing_comes_a_comment_keeps_the_connection_and_others_may_still_take_over(tmp_path):
    slow = Streaming(lambda: asyncio.sleep(0.1), event(error="overloaded"))

    async def scenario(desk, sink):
        await desk.stream(sink)
        assert sink.data.startswith(b": waiting\n\n")
        assert said(sink) == "four"

    run(tmp_path, scenario, slow, others=[Streaming(*FOUR)], bounds=StreamBounds(heartbeat_s=0.03))


def test_while_a_caller_is_gone_nothing_wakes_up_for_them(tmp_path, monkeypatch):
    async def scenario(desk, sink):
        sink.is_gone = True
        loop = asyncio.get_running_loop()
        due_s = []
        call_at = loop.call_at

        def noted(when_s, *what, **how):
            due_s.append(when_s)
            return call_at(when_s, *what, **how)

        monkeypatch.setattr(loop, "call_at", noted)
        await desk.stream(sink)
        # One heartbeat that finds nobody; the rest are single timers of the call itself.
        assert len(due_s) < 20

    slow = Streaming(lambda: asyncio.sleep(0.5), *FOUR)
    run(tmp_path, scenario, slow, bounds=StreamBounds(heartbeat_s=0.01))


def test_what_a_caller_who_left_did_not_get_is_kept_for_their_key(tmp_path):
    async def scenario(desk, sink):
        def leave():
            sink.is_gone = True
            return asyncio.sleep(0)

        desk.providers["small"].steps = [Streaming(FOUR[0], lambda: asyncio.sleep(0.01), leave, *FOUR[1:])]
        await desk.stream(sink, key="order-8")
        assert said(sink) == "fo"
        again = Collected()
        kept = await desk.stream(again, key="order-8")
        again.write(kept.body)
        assert said(again) == "four"
        assert events(again)[-1][0] == "done"
        assert desk.called == ["small"]

    run(tmp_path, scenario)


def test_what_came_together_with_an_error_is_passed_on(tmp_path):
    async def scenario(desk, sink):
        await desk.stream(sink)
        assert [name for name, _ in events(sink)] == ["delta", "delta", "error"]
        assert (await row(desk)).output_tokens == 2

    run(tmp_path, scenario, Streaming(b"".join([event(text="fou"), event(text="r"), event(error="overloaded")])))


def test_a_repeated_stream_is_the_same_bytes_and_is_paid_once(tmp_path):
    async def scenario(desk, sink):
        await desk.stream(sink, key="order-7")
        again = await desk.stream(Collected(), key="order-7")
        assert again is not None
        assert (again.replayed, again.is_stream, again.body) == (True, True, sink.data)
        assert desk.called == ["small"]
        await row(desk)

    run(tmp_path, scenario, Streaming(*FOUR), Streaming(*FOUR))


def test_a_caller_who_left_gets_the_whole_answer_when_the_call_is_repeated(tmp_path):
    async def scenario(desk, sink):
        def leave():
            sink.is_gone = True
            return asyncio.sleep(0)

        desk.providers["small"].steps = [Streaming(FOUR[0], lambda: asyncio.sleep(0.01), leave, *FOUR[1:])]
        await desk.stream(sink, key="order-7")
        assert said(sink) == "fo"
        again = await desk.stream(Collected(), key="order-7")
        assert again is not None
        repeated = Collected()
        repeated.write(again.body)
        assert said(repeated) == "four"
        assert [name for name, _ in events(repeated)] == ["delta", "delta", "usage", "done"]
        assert desk.called == ["small"]

    run(tmp_path, scenario)


def test_an_answer_that_comes_whole_is_passed_on_as_events(tmp_path):
    async def scenario(desk, sink):
        assert await desk.stream(sink, key="order-7") is None
        assert [name for name, _ in events(sink)] == ["delta", "usage", "done"]
        assert (said(sink), events(sink)[-1][1]["cost_usd"]) == ("four", COST / 1e9)
        assert ((await row(desk)).status, (await row(desk)).usage_source) == ("settled", "reported")
        again = await desk.stream(Collected(), key="order-7")
        assert again is not None
        assert again.body == sink.data
        await nothing_is_left(desk)

    run(tmp_path, scenario, answer())


def test_a_whole_answer_without_a_word_is_an_answer(tmp_path):
    async def scenario(desk, sink):
        await desk.stream(sink)
        assert [name for name, _ in events(sink)] == ["usage", "done"]
        assert (await row(desk)).status == "settled"

    run(tmp_path, scenario, answer(content=""))


def test_a_whole_answer_that_cannot_be_read_is_held(tmp_path):
    async def scenario(desk, sink):
        with pytest.raises(InternalError):
            await desk.stream(sink)
        assert (await row(desk)).status == "unknown"
        await nothing_is_left(desk)

    run(tmp_path, scenario, WireResponse(200, {}, b"{"))


def test_the_empty_line_after_the_last_event_may_be_left_out(tmp_path):
    async def scenario(desk, sink):
        await desk.stream(sink)
        assert [name for name, _ in events(sink)] == ["delta", "delta", "usage", "done"]
        assert ((await row(desk)).status, (await row(desk)).usage_source) == ("settled", "reported")

    run(tmp_path, scenario, Streaming(*FOUR[:2], event(finish="stop", usage=USAGE).rstrip()))


def test_an_event_that_was_cut_at_a_sound_end_is_told(tmp_path):
    async def scenario(desk, sink):
        await desk.stream(sink)
        assert [name for name, _ in events(sink)] == ["delta", "delta", "error"]
        assert (await row(desk)).usage_source == "estimated"

    run(tmp_path, scenario, Streaming(*FOUR[:2], event(finish="stop", usage=USAGE)[:-9]))


@pytest.mark.parametrize("garbage", [b"data: {\n\n", b"data: []\n\n", b"\xff\xfe\n\n" * 3, b"data: 7\n\n"])
def test_garbage_in_a_stream_leaves_nothing_behind(tmp_path, garbage):
    async def scenario(desk, sink):
        await desk.stream(sink)
        assert [name for name, _ in events(sink)] == ["delta", "error"]
        assert (await row(desk)).status == "settled"
        await nothing_is_left(desk)

    run(tmp_path, scenario, Streaming(FOUR[0], garbage))


@pytest.mark.parametrize("pieces", [FOUR, FOUR[2:]], ids=["begun", "all_held_back"])
def test_a_stream_that_cannot_be_settled_has_no_end_and_its_row_is_written_later(tmp_path, pieces):
    async def scenario(desk, sink):
        submit, database = desk.books.database.submit, desk.books.ledger._database

        async def failing(operation):
            if isinstance(operation, Settlement):
                raise Unavailable("the ledger cannot be written")
            return await submit(operation)

        database.submit = failing
        if pieces is FOUR:
            await desk.stream(sink, key="order-9")
            assert [name for name, _ in events(sink)] == ["delta", "delta", "error"]
        else:
            with pytest.raises(Unavailable):
                await desk.stream(sink, key="order-9")
            assert sink.data == b""
        assert await desk.books.rows() == []
        assert (await desk.books.budget())[2] > 0
        del database.submit
        await desk.books.ledger.flush()
        assert (await row(desk)).cost_nano_usd == COST
        assert (await desk.books.budget())[2] == 0
        again = Collected()
        again.write((await desk.stream(Collected(), key="order-9")).body)
        assert events(again)[-1][0] == "done"
        assert desk.called == ["small"]
        await nothing_is_left(desk)

    run(tmp_path, scenario, Streaming(*pieces))


def test_a_defect_in_writing_the_end_is_told_and_held(tmp_path, monkeypatch):
    def broken(self, writer, told):
        raise RuntimeError("a defect")

    monkeypatch.setattr(NativeQuestion, "last", broken)

    async def scenario(desk, sink):
        assert await desk.stream(sink) is None
        assert [name for name, _ in events(sink)] == ["delta", "delta", "error"]
        assert events(sink)[-1][1]["error"] == "ai_internal_error"
        assert (await row(desk)).status == "unknown"
        await nothing_is_left(desk)

    run(tmp_path, scenario, Streaming(*FOUR))


def test_a_defect_in_writing_a_whole_answer_is_told_and_held(tmp_path, monkeypatch):
    def broken(self, told):
        raise RuntimeError("a defect")

    monkeypatch.setattr(NativeQuestion, "body", broken)

    async def scenario(desk, _sink):
        with pytest.raises(InternalError):
            await desk.complete()
        assert (await row(desk)).status == "unknown"
        await nothing_is_left(desk)

    run(tmp_path, scenario, answer())

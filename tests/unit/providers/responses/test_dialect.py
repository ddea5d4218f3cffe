import json
from collections import Counter
from typing import Any

import pytest

from harness.recorded import RECORDED
from tollhouse.errors import InvalidRequest
from tollhouse.providers.base import OutcomeUnknown, Overloaded, ProviderError, Rejected, WireResponse
from tollhouse.providers.conversation import (
    Finished,
    PartBegun,
    PartEnded,
    PartGrew,
    ProviderAnswer,
    StreamEvent,
    Text,
    Thinking,
    ToolCall,
)
from tollhouse.providers.responses.dialect import ResponsesDialect
from tollhouse.providers.responses.stream import ResponsesStreamReader
from tollhouse.providers.sse import EventParser, ServerSentEvent
from tollhouse.providers.usage import Usage

KEY = "sk-proj-0123456789"
HEADERS = (("authorization", f"Bearer {KEY}"),)
DIALECT = ResponsesDialect(HEADERS, KEY)
USED: dict[str, Any] = {
    "input_tokens": 1000,
    "input_tokens_details": {"cached_tokens": 600, "cache_write_tokens": 300},
    "output_tokens": 500,
    "output_tokens_details": {"reasoning_tokens": 400},
    "total_tokens": 1500,
}
CLASSES = Usage(
    input_tokens=100, cached_input_tokens=600, cache_write_tokens=300, output_tokens=100, reasoning_tokens=400
)
NO_USE: list[Any] = [None, {}, {"input_tokens": 0, "output_tokens": 0, "total_tokens": 0}]


def message(*texts: str, **refusal: str) -> dict[str, Any]:
    content = [{"type": "output_text", "text": text, "annotations": []} for text in texts]
    content += [{"type": "refusal", **refusal}] if refusal else []
    return {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": content}


def call(arguments: str = '{"a":1}') -> dict[str, Any]:
    return {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "look", "arguments": arguments}


def reasoning(*summary: str, sealed: str | None = None) -> dict[str, Any]:
    texts = [{"type": "summary_text", "text": text} for text in summary]
    return {"type": "reasoning", "id": "rs_1", "summary": texts, "encrypted_content": sealed}


def search(action: str = "search") -> dict[str, Any]:
    return {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"type": action}}


def reply(*output: dict[str, Any], **changes: Any) -> dict[str, Any]:
    whole = {"id": "resp_1", "object": "response", "status": "completed", "error": None, "incomplete_details": None}
    return {**whole, "output": list(output), "usage": USED, **changes}


def decode(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> ProviderAnswer:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return DIALECT.decode(WireResponse(status, headers or {}, raw))


def sse(event: dict[str, Any]) -> ServerSentEvent:
    return ServerSentEvent(b"", json.dumps(event).encode(), event.get("type", ""))


def read(*events: dict[str, Any]) -> tuple[list[StreamEvent], ResponsesStreamReader]:
    reader = DIALECT.stream_reader()
    return [each for event in events for each in reader.read(sse(event))], reader


def began() -> list[dict[str, Any]]:
    response = reply(status="in_progress", usage=None)
    return [{"type": f"response.{name}", "response": response} for name in ("created", "in_progress")]


def added(place: int, item: dict[str, Any], kind: str = "added") -> dict[str, Any]:
    return {"type": f"response.output_item.{kind}", "output_index": place, "item": item}


def delta(name: str, place: int, text: str, **where: int) -> dict[str, Any]:
    return {"type": f"response.{name}.delta", "output_index": place, "delta": text, **where}


def over(*output: dict[str, Any], kind: str = "completed", **changes: Any) -> dict[str, Any]:
    return {"type": f"response.{kind}", "response": reply(*output, status=kind, **changes)}


def test_a_request_is_relayed_under_the_models_name_at_the_provider():
    body = {"model": "fast", "input": "Hi", "stream": True, "of_tomorrow": [1]}
    headers = {"openai-beta": "responses=v1", "openai-organization": "org-1", "authorization": "Bearer th_key"}
    wire = DIALECT.relay(body, model="gpt-5", stream=True, headers=headers)
    assert wire.path == "/responses"
    assert wire.headers == (*HEADERS, ("openai-beta", "responses=v1"))
    assert json.loads(wire.body) == {**body, "model": "gpt-5"}


def test_a_body_of_endless_depth_is_not_relayed():
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(InvalidRequest):
        DIALECT.relay({"input": deep}, model="gpt-5", stream=False, headers={})


def test_an_answer_is_golden():
    assert decode(reply(message("Hi")), headers={"x-request-id": "req_7"}) == ProviderAnswer(
        content="Hi", finish_reason="stop", usage=CLASSES, provider_request_id="req_7"
    )


def test_parts_come_in_their_order():
    answer = decode(reply(reasoning("One.", "Two.", sealed="gA"), message("I ", "look."), call(), call("")))
    assert answer.parts == (
        Thinking("One.\n\nTwo.", signature="gA"),
        Text("I "),
        Text("look."),
        ToolCall("call_1", "look", '{"a":1}'),
        ToolCall("call_1", "look", "{}"),
    )
    assert (answer.content, answer.finish_reason, answer.provider_request_id) == ("I look.", "tool_calls", "resp_1")


def test_reasoning_that_is_not_shown_keeps_its_seal():
    answer = decode(reply(reasoning(sealed="gA"), reasoning(), message("Hi")))
    assert answer.parts == (Thinking("", redacted="gA"), Text("Hi"))


def test_reasoning_that_a_server_shows_itself_is_thinking():
    shown = {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]}
    assert decode(reply(shown, message("Hi"))).parts == (Thinking("Hm."), Text("Hi"))


def test_a_refusal_is_the_content():
    answer = decode(reply(message(refusal="I won't.")))
    assert (answer.content, answer.finish_reason, answer.parts) == ("I won't.", "refusal", ())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"status": "complete"}, "stop"),
        ({"status": None}, "stop"),
        ({"status": "of_tomorrow"}, "other"),
        ({"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}, "length"),
        ({"status": "incomplete", "incomplete_details": {"reason": "content_filter"}}, "content_filter"),
        ({"status": "incomplete", "incomplete_details": {"reason": ["of_tomorrow"]}}, "other"),
        ({"status": "incomplete", "incomplete_details": None}, "other"),
    ],
)
def test_why_an_answer_ended_is_told(changes, reason):
    assert decode(reply(message("Hi"), **changes)).finish_reason == reason
    kind = "incomplete" if changes["status"] == "incomplete" else "completed"
    ending = {"type": f"response.{kind}", "response": reply(message("Hi"), **changes)}
    assert read(*began(), ending)[0][-1] == Finished(reason)


@pytest.mark.parametrize("kind", ["function_call", "custom_tool_call", "computer_call", "mcp_approval_request"])
def test_whatever_asks_something_of_the_client_is_a_call(kind):
    assert decode(reply(message("Hi"), {"type": kind})).finish_reason == "tool_calls"


@pytest.mark.parametrize("status", ["queued", "in_progress", "cancelled"])
def test_what_is_worked_on_elsewhere_may_be_billed_later(status):
    with pytest.raises(OutcomeUnknown, match="background"):
        decode(reply(status=status, usage=None))


@pytest.mark.parametrize(
    ("output", "tool_usage", "searches"),
    [
        ((search(), search(), message("Hi")), None, 2),
        ((search(), search("open_page"), search("find_in_page"), message("Hi")), None, 1),
        (({"type": "web_search_call"}, message("Hi")), None, 1),
        ((search(), message("Hi")), {"web_search": {"num_requests": 3}}, 3),
        ((search(), message("Hi")), {"web_search": {"num_requests": 0}}, 1),
        ((search(), message("Hi")), {"web_search": {"num_requests": "3"}}, 1),
        ((search(), message("Hi")), ["web_search"], 1),
        ((message("Hi"),), {"web_search": {"num_requests": 0}}, 0),
    ],
)
def test_searches_are_counted(output, tool_usage, searches):
    usage = decode(reply(*output, tool_usage=tool_usage)).usage
    assert usage is not None
    assert usage.web_searches == searches
    assert usage.total_tokens == 1500
    events = [added(i, item, "done") for i, item in enumerate(output)]
    for ending in (over(*output, tool_usage=tool_usage), over(tool_usage=tool_usage)):
        _, reader = read(*began(), *events, ending)
        assert reader.usage == usage


@pytest.mark.parametrize(
    "used",
    [
        {"input_tokens": 10, "output_tokens": 9, "output_tokens_details": {"reasoning_tokens": 84}},
        {"input_tokens": 10, "output_tokens": 9, "total_tokens": 103},
    ],
)
def test_reasoning_outside_the_output_is_additional(used):
    usage = decode(reply(message("Hi"), usage=used)).usage
    assert usage == Usage(input_tokens=10, output_tokens=9, reasoning_tokens=84)


def test_an_explicit_zero_is_a_zero():
    assert decode(reply(message("Hi"), usage={"input_tokens": 0, "output_tokens": 0})).usage == Usage()


@pytest.mark.parametrize(
    "used",
    [
        None,
        {},
        [],
        "many",
        {"input_tokens": 10},
        {"input_tokens": 10, "output_tokens": -1},
        {"input_tokens": 10, "output_tokens": "5"},
        {"input_tokens": 10, "output_tokens": 5, "input_tokens_details": {"cached_tokens": 11}},
    ],
)
def test_a_usage_that_cannot_be_read_does_not_cost_the_answer(used):
    answer = decode(reply(search(), message("Hi"), usage=used))
    assert (answer.content, answer.usage) == ("Hi", None)
    events, reader = read(*began(), over(search(), message("Hi"), usage=used))
    assert events[-1] == Finished("stop")
    assert reader.usage is None


@pytest.mark.parametrize("body", [b"", b"<html>", b"{}", b"[]", b'{"output":null}', b'{"output":{}}', b"\xff"])
def test_a_200_that_is_no_response_may_have_been_billed(body):
    with pytest.raises(OutcomeUnknown):
        decode(body)


@pytest.mark.parametrize("used", NO_USE)
@pytest.mark.parametrize(
    ("code", "outcome"),
    [
        ("server_error", Overloaded),
        ("rate_limit_exceeded", Overloaded),
        ("of_tomorrow", Overloaded),
        ("invalid_prompt", Rejected),
        ("invalid_image_url", Rejected),
    ],
)
def test_a_failure_before_anything_was_made_is_free(code, outcome, used):
    said = {"code": code, "message": f"It failed, {KEY}"}
    with pytest.raises(outcome) as caught:
        decode(reply(status="failed", error=said, usage=used))
    assert KEY not in str(caught.value)
    for events in (
        [*began(), over(kind="failed", error=said, usage=used)],
        [*began(), {"type": "error", **said, "param": None, "sequence_number": 2}],
        [{"type": "error", "error": {"type": code, **said}, "sequence_number": 2}],
        [{"error": said}],
    ):
        with pytest.raises(outcome) as caught:
            read(*events)
        assert KEY not in str(caught.value)


def test_a_model_that_the_operator_named_wrong_is_another_candidates_chance():
    said = {"type": "invalid_request_error", "code": "model_not_found", "message": "no such model"}
    with pytest.raises(Overloaded, match="operator"):
        read({"type": "error", "error": said})
    with pytest.raises(Overloaded, match="operator"):
        decode({"error": said}, status=400)


@pytest.mark.parametrize("said", [None, "", {}, [], 7])
def test_a_failure_that_says_nothing_is_no_proof_that_the_call_was_free(said):
    with pytest.raises(OutcomeUnknown):
        decode(reply(status="failed", error=said, usage=None))
    with pytest.raises(OutcomeUnknown):
        read(*began(), over(kind="failed", error=said, usage=None))
    with pytest.raises(OutcomeUnknown):
        read({"type": "error", "error": said})


def test_a_failure_after_something_was_made_or_used_may_be_billed():
    said = {"code": "server_error", "message": "It failed."}
    failures = [over(kind="failed", error=said, usage=None), {"type": "error", **said}]
    for failure in failures:
        for before in ([added(0, reasoning())], [delta("output_text", 0, "H", content_index=0)]):
            with pytest.raises(OutcomeUnknown):
                read(*began(), *before, failure)
    for changes in ({"usage": USED}, {"usage": None, "output": [message("H")]}):
        with pytest.raises(OutcomeUnknown):
            decode(reply(**{"status": "failed", "error": said, **changes}))
        with pytest.raises(OutcomeUnknown):
            read(*began(), over(kind="failed", error=said, **changes))


@pytest.mark.parametrize(("item", "thinks_unseen"), [(reasoning(), True), (message("Hi"), False)])
def test_a_stream_with_reasoning_is_billed_for_more_than_it_shows(item, thinks_unseen):
    for kind in ("added", "done"):
        _, reader = read({"type": f"response.output_item.{kind}", "output_index": 0, "item": item})
        assert reader.thinks_unseen is thinks_unseen


def test_what_a_failed_stream_says_it_used_is_known():
    reader = DIALECT.stream_reader()
    with pytest.raises(OutcomeUnknown):
        reader.read(sse(over(kind="failed", error={"code": "server_error", "message": "x"}, usage=USED)))
    assert reader.usage == CLASSES


def test_a_stream_of_every_part_is_read():
    events, reader = read(
        *began(),
        added(0, reasoning()),
        delta("reasoning_summary_text", 0, "One", summary_index=0),
        delta("reasoning_summary_text", 0, ".", summary_index=0),
        delta("reasoning_summary_text", 0, "Two.", summary_index=1),
        added(0, reasoning("One.", "Two.", sealed="gA"), "done"),
        added(1, search()),
        added(1, search(), "done"),
        added(2, message()),
        {"type": "response.content_part.added", "output_index": 2, "content_index": 0, "part": {}},
        delta("output_text", 2, "I ", content_index=0),
        delta("output_text", 2, "look.", content_index=0),
        {"type": "response.output_text.done", "output_index": 2, "content_index": 0, "text": "I look."},
        added(2, message("I look."), "done"),
        added(3, call("")),
        added(4, {**call(""), "call_id": "call_2"}),
        delta("function_call_arguments", 4, "{}"),
        delta("function_call_arguments", 3, '{"a":'),
        delta("function_call_arguments", 3, "1}"),
        added(3, call(), "done"),
        added(4, {**call("{}"), "call_id": "call_2"}, "done"),
        {"type": "response.of_tomorrow", "output_index": "x"},
        over(reasoning("One.", "Two."), search(), message("I look."), call(), call()),
    )
    assert events == [
        PartBegun(0, Thinking("")),
        PartGrew(0, "One"),
        PartGrew(0, "."),
        PartGrew(0, "\n\nTwo."),
        PartGrew(0, signature="gA"),
        PartEnded(0),
        PartBegun(1, Text("")),
        PartGrew(1, "I "),
        PartGrew(1, "look."),
        PartEnded(1),
        PartBegun(2, ToolCall("call_1", "look", "")),
        PartBegun(3, ToolCall("call_2", "look", "")),
        PartGrew(3, "{}"),
        PartGrew(2, '{"a":'),
        PartGrew(2, "1}"),
        PartEnded(2),
        PartEnded(3),
        Finished("tool_calls"),
    ]
    assert reader.provider_request_id == "resp_1"
    assert reader.usage is not None
    assert reader.usage.web_searches == 1


def test_what_did_not_come_in_pieces_is_taken_from_the_whole():
    events, _ = read(
        *began(),
        added(0, reasoning("Hm."), "done"),
        added(1, message("Hi"), "done"),
        added(2, call(), "done"),
        over(),
    )
    assert events == read(*began(), over(reasoning("Hm."), message("Hi"), call()))[0]
    assert [event.text for event in events if isinstance(event, PartGrew)] == ["Hm.", "Hi", '{"a":1}']


def test_a_refusal_in_a_stream_is_text_and_the_reason():
    events, _ = read(*began(), delta("refusal", 0, "I won't.", content_index=0), over(message(refusal="I won't.")))
    assert events == [PartBegun(0, Text("")), PartGrew(0, "I won't."), PartEnded(0), Finished("refusal")]


def test_nothing_follows_the_end():
    events, reader = read(*began(), over(message("Hi")), over(message("Hi"), usage=None), delta("output_text", 0, "x"))
    assert events[-1] == Finished("stop")
    assert sum(isinstance(event, Finished) for event in events) == 1
    assert reader.usage == CLASSES


def test_comments_and_the_last_word_of_other_apis_are_no_events():
    reader = DIALECT.stream_reader()
    assert [*reader.read(ServerSentEvent(b"", b"")), *reader.read(ServerSentEvent(b"", b"[DONE]"))] == []


@pytest.mark.parametrize("data", [b"{", b"[]", b"7", b"\xff", b"[" * 100_000, b'{"response":7}'])
def test_an_event_that_cannot_be_read_may_be_billed(data):
    with pytest.raises(OutcomeUnknown):
        DIALECT.stream_reader().read(ServerSentEvent(b"", data))


def recorded() -> list[dict[str, Any]]:
    file = RECORDED / "openai-responses.jsonl"
    if not file.is_file():
        pytest.skip(f"the recorded provider traffic is not here: {file}")
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def expectation(sent: dict[str, Any]) -> tuple[str, Usage]:
    """What a response says, read from the raw JSON independently of the dialect."""
    used = sent["usage"]
    into, out = used["input_tokens_details"], used["output_tokens_details"]
    assert used["total_tokens"] == used["input_tokens"] + used["output_tokens"]
    written = into.get("cache_write_tokens", 0)
    texts = [part["text"] for item in sent["output"] if item["type"] == "message" for part in item["content"]]
    return "".join(texts), Usage(
        input_tokens=used["input_tokens"] - into["cached_tokens"] - written,
        cached_input_tokens=into["cached_tokens"],
        cache_write_tokens=written,
        output_tokens=used["output_tokens"] - out["reasoning_tokens"],
        reasoning_tokens=out["reasoning_tokens"],
        web_searches=sum(item["type"] == "web_search_call" for item in sent["output"]),
    )


def test_every_recorded_answer_is_read_class_by_class():
    outcomes: Counter[str] = Counter()
    for line in recorded():
        if line["stream"]:
            continue
        sent = line["response"]
        try:
            answer = decode(sent, status=line["status"])
        except ProviderError as error:
            outcomes[type(error).__name__] += 1
            # Without usage are the refused requests, which cost nothing, and those in the background, which are only
            # queued when they are answered: their usage comes with an answer that is fetched later.
            assert sent.get("usage") is None
            assert line["status"] == 400 or sent["status"] == "queued"
            continue
        outcomes["answered"] += 1
        assert (answer.content, answer.usage) == expectation(sent), line["id"]
        calls = [part for part in answer.parts if isinstance(part, ToolCall)]
        made = [item for item in sent["output"] if item["type"] == "function_call"]
        assert [(c.id, c.name, c.arguments) for c in calls] == [(i["call_id"], i["name"], i["arguments"]) for i in made]
        assert answer.provider_request_id == sent["id"]
    assert outcomes == {"answered": 131, "Rejected": 3, "Overloaded": 1, "OutcomeUnknown": 4}


@pytest.mark.parametrize("size", [1, 1000, 1 << 20])
def test_every_recorded_stream_is_read_class_by_class(size):
    streams = [line for line in recorded() if line["stream"]]
    for line in streams:
        raw = line["response"].encode()
        parser, reader = EventParser(1 << 20), DIALECT.stream_reader()
        pieces = (raw[i : i + size] for i in range(0, len(raw), size))
        events = [each for piece in pieces for event in parser.feed(piece) for each in reader.read(event)]
        ends = [json.loads(row[5:]) for row in line["response"].splitlines() if row.startswith("data:")]
        (sent,) = [end["response"] for end in ends if end["type"] == "response.completed"]
        content, usage = expectation(sent)
        assert reader.usage == usage, line["id"]
        begun = {event.index: event.part for event in events if isinstance(event, PartBegun)}
        grown = [event for event in events if isinstance(event, PartGrew)]
        assert "".join(e.text for e in grown if isinstance(begun[e.index], Text)) == content
        arguments = "".join(e.text for e in grown if isinstance(begun[e.index], ToolCall))
        assert arguments == "".join(i["arguments"] for i in sent["output"] if i["type"] == "function_call")
        assert [e.index for e in events if isinstance(e, PartEnded)] == sorted(begun)
        assert isinstance(events[-1], Finished)
        assert reader.provider_request_id == sent["id"]
    assert len(streams) == 15

"""Whatever a provider streams, or a client sends, in the Responses API: known outcomes only."""

import contextlib
import json
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from tollhouse.completions.wire.base import AnswerHead, Asked
from tollhouse.completions.wire.responses.api import ResponsesApi
from tollhouse.errors import InvalidRequest
from tollhouse.providers.base import ProviderError, WireResponse
from tollhouse.providers.conversation import Finished, PartBegun, PartEnded, PartGrew, ProviderAnswer
from tollhouse.providers.responses.dialect import ResponsesDialect
from tollhouse.providers.sse import EventParser, ServerSentEvent
from tollhouse.providers.usage import Usage

API = ResponsesApi()
DIALECT = ResponsesDialect((), "sk-0123456789")
EVENT_FIELDS = (
    "type delta output_index content_index summary_index item response error code message param output status usage "
    "id call_id name arguments content text refusal summary encrypted_content action input_tokens output_tokens "
    "total_tokens input_tokens_details cached_tokens tool_usage web_search num_requests incomplete_details reason"
)
KINDS = (
    "response.created response.queued response.in_progress response.output_item.added response.output_item.done "
    "response.output_text.delta response.refusal.delta response.reasoning_summary_text.delta "
    "response.reasoning_text.delta response.function_call_arguments.delta response.completed response.incomplete "
    "response.failed error message function_call reasoning web_search_call output_text refusal summary_text completed "
    "failed incomplete queued server_error invalid_prompt"
)
REQUEST_FIELDS = (
    "type role content text image_url file_url file_data file_id filename detail input_audio data format call_id name "
    "arguments output summary encrypted_content extra_content google thought_signature tools parameters strict "
    "environment effort schema id status"
)
TOP_FIELDS = (
    "instructions tools tool_choice parallel_tool_calls text reasoning metadata include stream temperature top_p user "
    "max_output_tokens max_tool_calls prompt_cache_key previous_response_id service_tier background"
)
WORDS = (
    "message function_call function_call_output reasoning item_reference user assistant system input_text output_text "
    "refusal input_image input_file input_audio function namespace json_schema json_object auto low wav {} "
    "data:image/png;base64,QQ== https://a.example/b.pdf tollhouse-signed:x tollhouse-redacted:x web_search shell"
)


def documents(fields: str, words: str) -> st.SearchStrategy[Any]:
    scalars = (
        st.none()
        | st.booleans()
        | st.integers(-2, 5)
        | st.sampled_from([10**9 + 1, 2**64, 1.5])
        | st.text(max_size=5)
        | st.sampled_from(words.split())
    )
    names = st.sampled_from(fields.split())
    return st.recursive(
        scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=6), max_leaves=12
    )


def objects(fields: str, words: str) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(st.sampled_from(fields.split()), documents(fields, words), max_size=8)


EVENTS = st.builds(
    lambda kind, said: {**said, "type": kind}, st.sampled_from(KINDS.split()), objects(EVENT_FIELDS, KINDS)
)


@given(st.lists(EVENTS | documents(EVENT_FIELDS, KINDS), max_size=8))
@settings(max_examples=100, deadline=None)
def test_any_stream_is_a_sound_run_of_events_or_fails_in_a_known_way(events):
    reader = DIALECT.stream_reader()
    begun: set[int] = set()
    ended: set[int] = set()
    is_finished = False
    for event in events:
        try:
            read = reader.read(ServerSentEvent(b"", json.dumps(event).encode()))
        except ProviderError:
            return
        for each in read:
            assert not is_finished
            if isinstance(each, PartBegun):
                assert each.index == len(begun)
                begun.add(each.index)
            elif isinstance(each, Finished):
                is_finished = True
                assert ended == begun
            else:
                assert isinstance(each, PartGrew | PartEnded)
                assert each.index in begun - ended
                ended |= {each.index} if isinstance(each, PartEnded) else set()
    assert reader.usage is None or min(msgspec.structs.astuple(reader.usage)) >= 0


@given(st.binary(max_size=200))
@settings(deadline=None)
def test_any_bytes_of_a_stream_are_read_or_fail_in_a_known_way(data):
    reader = DIALECT.stream_reader()
    with contextlib.suppress(ProviderError):
        for event in EventParser(1000).feed(b"event: error\ndata: " + data + b"\n\n"):
            reader.read(event)


@given(objects(EVENT_FIELDS, KINDS) | documents(EVENT_FIELDS, KINDS))
@settings(max_examples=100, deadline=None)
def test_any_answer_is_read_or_fails_in_a_known_way(document):
    try:
        answer = DIALECT.decode(WireResponse(200, {}, json.dumps(document).encode()))
    except ProviderError:
        return
    assert isinstance(answer, ProviderAnswer)
    assert answer.usage is None or min(msgspec.structs.astuple(answer.usage)) >= 0


@given(
    st.dictionaries(st.sampled_from(TOP_FIELDS.split()), documents(REQUEST_FIELDS, WORDS), max_size=3),
    st.lists(objects(REQUEST_FIELDS, WORDS), min_size=1, max_size=3) | documents(REQUEST_FIELDS, WORDS),
)
@settings(max_examples=150, deadline=None)
def test_any_request_is_translated_and_answered_or_refused(top, given_input):
    try:
        asked = API.read(json.dumps({**top, "model": "m", "input": given_input}).encode())
        request = API.translated(asked, 10)
    except InvalidRequest:
        return
    assert request.messages
    check_answered(asked)


@given(st.binary(max_size=100))
@settings(deadline=None)
def test_any_bytes_of_a_request_are_read_or_refused(raw):
    with contextlib.suppress(InvalidRequest):
        API.read(raw)


def check_answered(asked: Asked) -> None:
    head = AnswerHead("req_1", "m", 7, asked)
    written = json.loads(API.answer(ProviderAnswer("Hi", "stop", None), Usage(), head))
    assert written["output"][0]["content"][0]["text"] == "Hi"
    writer = API.stream_writer(asked, head)
    assert writer.begin()
    assert writer.end(Usage())

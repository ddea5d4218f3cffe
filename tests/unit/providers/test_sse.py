"""Server-sent events, however their lines end and wherever they are cut."""

import random
import re

import pytest

from tollhouse.providers.sse import EventParser, EventTooLong, encode_event

LINE_ENDS = (b"\n", b"\r\n", b"\r")


def events(*pieces, max_event_bytes=1 << 20):
    parser = EventParser(max_event_bytes)
    return [event for piece in pieces for event in parser.feed(piece)]


@pytest.mark.parametrize("end", LINE_ENDS, ids=["LF", "CR LF", "CR"])
def test_an_event_is_its_bytes_its_data_and_its_name(end):
    raw = end.join([b": said before", b"event: delta", b"id: 7", b"data: one", b"data:two", b"", b""])
    (event,) = events(raw)
    assert (event.raw, event.name, event.data) == (raw, "delta", b"one\ntwo")


def test_lines_that_end_in_different_ways_may_be_mixed():
    first, second = events(b"data: a\r\ndata: b\n\ndata: c\n\r\n")
    assert (first.data, second.data) == (b"a\nb", b"c")


def test_a_comment_is_an_event_without_data():
    (comment,) = events(b": waiting\n\n")
    assert (comment.raw, comment.data, comment.name) == (b": waiting\n\n", b"", "")


@pytest.mark.parametrize("size", [1, 2, 100])
def test_a_byte_order_mark_is_no_part_of_the_first_event(size):
    whole = b"\xef\xbb\xbfdata: a\n\ndata: \xef\xbb\xbfb\n\n"
    first, second = events(*[whole[start : start + size] for start in range(0, len(whole), size)])
    assert (first.data, second.data) == (b"a", b"\xef\xbb\xbfb")


def test_what_is_not_whole_waits():
    parser = EventParser(100)
    assert list(parser.feed(b"data: a\n")) == []
    assert parser.rest() == b"data: a\n"
    assert [event.data for event in parser.feed(b"\ndata")] == [b"a"]
    assert parser.rest() == b"data"


def test_an_event_beyond_its_bound_is_refused():
    assert len(events(b"data: 34567890\n\n" * 3, max_event_bytes=20)) == 3
    with pytest.raises(EventTooLong):
        events(b"data: 34567890", b"1234567", max_event_bytes=20)


def test_wherever_a_stream_of_lf_is_cut_its_events_are_the_same():
    chance = random.Random(5)
    for _ in range(300):
        lines = [chance.choice([b"data: x", b"data: \xc3\xa9", b"event: e", b"", b": c"]) for _ in range(12)]
        whole = b"".join(line + chance.choice([b"\n", b"\n", b"\r\n"]) for line in lines)
        cuts = sorted(chance.randrange(len(whole)) for _ in range(4))
        pieces = [whole[start:stop] for start, stop in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
        # An empty line ends an event: LF or CR LF right after a line's own end.
        expected = re.findall(rb"(?s).*?(?:\r\n\r\n|\n\n|\n\r\n|\r\n\n)", whole)
        assert [event.raw for event in events(*filter(None, pieces))] == expected


def test_what_is_encoded_is_read_again():
    (event,) = events(encode_event(b'{"a":1}', "usage"))
    assert (event.name, event.data) == ("usage", b'{"a":1}')
    (event,) = events(encode_event(b"[DONE]"))
    assert (event.name, event.data) == ("", b"[DONE]")

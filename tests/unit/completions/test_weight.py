"""How much a request can take in: texts by their bytes, media by their kind, and what it does not show at all."""

import base64
import json
import struct

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollhouse.completions.weight import PER_MESSAGE_TOKENS, Weight, weigh

PICTURE = base64.b64encode(b"\x89PNG" * 500).decode()


def wav(form=1, channels=1, rate=8_000, bits=16):
    """Return a second and more of WAV in base64."""
    width = channels * bits // 8
    fmt = struct.pack("<HHIIHH", form, channels, rate, rate * width, width, bits)
    return base64.b64encode(b"RIFF\xff\xff\0\0WAVEfmt \x10\0\0\0" + fmt + b"data" + b"\0" * 16_000).decode()


SOUND = wav()


def weight_of(body, **how):
    return weigh(body, len(json.dumps(body)), **how)


def user(*parts):
    return {"messages": [{"role": "user", "content": list(parts)}]}


def test_a_text_weighs_its_bytes_and_its_turn():
    body = user({"type": "text", "text": "x" * 1000})
    assert weight_of(body) == Weight(len(json.dumps(body)) + PER_MESSAGE_TOKENS)


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PICTURE}"}},
        {"type": "input_image", "image_url": f"data:image/png;base64,{PICTURE}"},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PICTURE}},
        {"inlineData": {"mimeType": "image/png", "data": PICTURE}},
        {"inline_data": {"mime_type": "image/png", "data": PICTURE}},
    ],
    ids=["chat", "responses", "messages", "gemini", "gemini_snake"],
)
def test_a_picture_is_a_picture_and_its_base64_is_no_text(part):
    weight = weight_of(user(part))
    assert (weight.images, weight.audio_tokens, weight.is_unbounded) == (1, 0, False)
    assert weight.text_tokens < 300


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
        {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}},
    ],
)
def test_a_picture_at_an_address_is_a_picture_too(part):
    weight = weight_of(user(part))
    assert (weight.images, weight.is_unbounded) == (1, False)


@pytest.mark.parametrize(
    "part",
    [
        {"type": "input_audio", "input_audio": {"data": SOUND, "format": "wav"}},
        {"inlineData": {"mimeType": "audio/wav", "data": SOUND}},
    ],
)
def test_a_recording_weighs_by_its_length(part):
    weight = weight_of(user(part))
    assert weight.audio_tokens == len(SOUND) // 16
    assert (weight.images, weight.is_unbounded) == (0, False)
    assert weight.text_tokens < 300


@pytest.mark.parametrize(
    "part",
    [
        {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": PICTURE}},
        {"type": "document", "source": {"type": "url", "url": "https://example.com/a.pdf"}},
        {"type": "file", "file": {"file_data": f"data:application/pdf;base64,{PICTURE}"}},
        {"type": "file", "file": {"file_id": "file-1"}},
        {"type": "input_file", "file_url": "https://example.com/a.pdf"},
        {"fileData": {"fileUri": "https://example.com/v", "mimeType": "video/mp4"}},
        {"type": "image_url", "image_url": {"url": f"data:application/pdf;base64,{PICTURE}"}},
        {"type": "image", "source": {"type": "base64", "media_type": "video/mp4", "data": PICTURE}},
        {"inlineData": {"mimeType": "image/png", "mime_type": "video/mp4", "data": PICTURE}},
        {"inlineData": {"mimeType": "video/mp4", "type": "image", "data": PICTURE}},
        {"type": "video", "video": ["https://example.com/1.png", "https://example.com/2.png"]},
        {"type": "image", "image": "https://example.com/a"},
        {"type": "audio_url", "audio_url": {"url": "https://example.com/a.mp3"}},
        {"type": "container_upload", "file_id": "file_1"},
    ],
)
def test_what_a_document_holds_cannot_be_seen(part):
    assert weight_of(user(part)).is_unbounded


def encoded(head):
    return base64.b64encode(head + b"\0" * 3000).decode()


@pytest.mark.parametrize(
    ("sound", "is_unbounded"),
    [
        (wav(), False),
        (wav(form=0xFFFE, channels=2, rate=48_000), False),
        (wav(rate=100), True),
        (wav(form=0x11), True),
        (encoded(b"\xff\xfb\x90\x00"), False),
        (encoded(b"\xff\xf3\x40\xc4"), False),
        (encoded(b"ID3\x04\0\0\0\0\x01\x02" + b"t" * 130 + b"\xff\xe3\x18"), False),
        (encoded(b"ID3\x04\0\0\0\0\x01\x02" + b"t" * 130 + b"fLaC"), True),
        (encoded(b"fLaC\0\0\0\x22"), True),
        (encoded(b"OggS\0\x02"), True),
        (encoded(b"\xff\xf1\x50\x80"), True),
        ("no base64 at all, \u00e4", True),
        ("UklGR", True),
    ],
    ids=[
        "wav",
        "stereo",
        "slow",
        "adpcm",
        "mpeg1",
        "mpeg2",
        "tagged",
        "tagged-flac",
        "flac",
        "ogg",
        "aac",
        "text",
        "cut",
    ],
)
def test_only_a_recording_whose_bytes_bound_its_length_weighs_by_them(sound, is_unbounded):
    weight = weight_of(user({"inlineData": {"mimeType": "audio/wav", "data": sound}}))
    assert weight.is_unbounded is is_unbounded
    assert (weight.audio_tokens == 0) is is_unbounded


LONG = "to be read word by word " * 1000
PICTURES_CLOTHES = {"image": {"mimeType": "image/png", "media_type": "image/png", "data": LONG}, "type": "image"}


@pytest.mark.parametrize(
    "body",
    [
        {"messages": [{"role": "user", "content": "data:image/png," + LONG}]},
        user({"type": "text", "text": "data:audio/wav," + LONG}),
        user({"type": "tool_use", "id": "t", "name": "f", "input": PICTURES_CLOTHES}),
        user({"type": "server_tool_use", "id": "t", "name": "f", "input": {"image_url": "data:image/png," + LONG}}),
        {"contents": [{"parts": [{"functionCall": {"name": "f", "args": PICTURES_CLOTHES}}]}]},
        {"contents": [{"parts": [{"function_response": {"name": "f", "response": PICTURES_CLOTHES}}]}]},
        {"messages": [], "tools": [{"name": "f", "input_schema": PICTURES_CLOTHES}]},
        {"input": [{"type": "tool_search_output", "tools": [{"name": "f", "parameters": PICTURES_CLOTHES}]}]},
        {"contents": [], "generationConfig": {"responseSchema": PICTURES_CLOTHES}},
        user({"type": "document", "source": {"type": "text", "media_type": "text/plain", "data": LONG}}),
        user({"type": "redacted_thinking", "data": LONG}),
    ],
    ids=[
        "content",
        "text",
        "input",
        "server_input",
        "args",
        "response",
        "schema",
        "found_tool",
        "response_schema",
        "plain",
        "redacted",
    ],
)
def test_a_text_in_a_pictures_clothes_is_a_text(body):
    weight = weight_of(body)
    assert weight.text_tokens >= len(LONG)
    assert (weight.images, weight.audio_tokens, weight.is_unbounded) == (0, 0, False)


@pytest.mark.parametrize(
    "fields",
    [
        {"messages": [{"role": "assistant", "audio": {"id": "audio_1"}}]},
        {"messages": [], "extra_body": {"google": {"cached_content": "cachedContents/1"}}},
        {"messages": [], "thread": {"type": "continue", "previous_message_id": "msg_1"}},
    ],
)
def test_what_is_stored_is_found_wherever_it_is_named(fields):
    assert weight_of(fields).is_unbounded


def test_a_tool_that_the_vendor_has_defined_weighs_what_the_model_reads_of_it():
    kinds = ("bash_20250124", "text_editor_20250728", "computer_20251124")
    tools = [{"type": kind, "name": kind.partition("_")[0]} for kind in kinds]
    # As Anthropic's pages have it: what it says to a model that may use tools, and of each of these.
    assert weight_of({"messages": [], "tools": tools}).text_tokens > 346 + 499 + 245 + 700 + 735


@pytest.mark.parametrize(
    ("fields", "is_unbounded"),
    [
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, False),
        ({"tools": [{"name": "f", "input_schema": {}}]}, False),
        ({"tools": [{"type": "custom", "name": "f"}]}, False),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, False),
        ({"tools": [{"functionDeclarations": [{"name": "f"}]}]}, False),
        ({"tools": {"function_declarations": [{"name": "f"}]}}, False),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, True),
        ({"tools": [{"type": "web_search"}]}, True),
        ({"tools": [{"googleSearch": {}}]}, True),
        ({"tools": [{"urlContext": {}}]}, True),
        ({"mcp_servers": [{"url": "https://example.com"}]}, True),
        ({"cachedContent": "cachedContents/1"}, True),
        ({"tools": "nonsense"}, False),
        ({"tools": [7, None, {"type": 7}]}, False),
    ],
)
def test_what_the_provider_adds_by_itself_cannot_be_seen(fields, is_unbounded):
    assert weight_of({"messages": [], **fields}).is_unbounded is is_unbounded


def test_what_is_stored_and_searched_is_told_by_the_api():
    assert weight_of({}, reads_stored=True).is_unbounded
    assert weight_of({}, max_searches=3).max_searches == 3


def test_tools_and_schemas_weigh_twice_and_more():
    tools = {"tools": [{"type": "function", "function": {"name": "f", "description": "x" * 500}}]}
    assert weight_of(tools).text_tokens > 2 * 500 + 1000


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(st.sampled_from(["messages", "tools", "input", "contents", "x"]), JSON))
def test_whatever_comes_weighs_at_least_its_bytes_unless_it_is_media(body):
    raw = msgspec.json.encode(body)
    weight = weigh(body, len(raw))
    if not (weight.images or weight.audio_tokens or weight.is_unbounded):
        assert weight.text_tokens >= len(raw)


def test_what_goes_on_by_itself_does_so_as_often_as_it_searches_at_least():
    assert weight_of({}, max_searches=3).max_steps == 3
    assert weight_of({}, max_searches=3, max_steps=10).max_steps == 10

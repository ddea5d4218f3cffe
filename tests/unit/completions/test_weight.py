"""How much a request can take in: texts by their bytes, media by their kind, and what it does not show at all."""

import base64
import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollhouse.completions.weight import PER_MESSAGE_TOKENS, Weight, weigh

PICTURE = base64.b64encode(b"\x89PNG" * 500).decode()
SOUND = base64.b64encode(b"RIFF" * 4000).decode()


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
    ],
)
def test_what_a_document_holds_cannot_be_seen(part):
    assert weight_of(user(part)).is_unbounded


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

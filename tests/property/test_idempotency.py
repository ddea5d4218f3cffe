"""Claims never meet by accident, and the database alone reveals nothing of what they were made from."""

import asyncio
import hashlib
import tempfile
from pathlib import Path

import msgspec
import pytest
from cryptography.exceptions import InvalidTag
from hypothesis import given, settings
from hypothesis import strategies as st

from harness import engines
from harness.books import open_books
from harness.providers import Desk, Provider, answer, body_of
from tollhouse.completions.call import Answer
from tollhouse.completions.decoding import decode_body
from tollhouse.idempotency.model import claim

HEADER_TEXT = st.text(st.characters(min_codepoint=33, max_codepoint=255, exclude_categories=("Cc", "Zs")), min_size=1)
CALLS = st.tuples(HEADER_TEXT, HEADER_TEXT, st.binary())

# Long enough not to stand in a file by chance, and with a mark that nothing else has.
SECRET = st.text("abcdefghijklmnopqrstuvwxyz0123456789-_ äß漢", min_size=8, max_size=40).map("§{}§".format)
CAP = 10**9


def claimed(call):
    api_key, key, body = call
    return claim(api_key, key, body, "2026-04-11T12:00:00.000Z")


@given(CALLS, CALLS)
def test_claims_of_different_callers_or_keys_or_bodies_never_collide(one, other):
    first, second = claimed(one), claimed(other)
    assert (first.claim_id == second.claim_id) == (one[:2] == other[:2])
    assert (first.answer_key == second.answer_key) == (one[:2] == other[:2])
    assert (first.body_digest == second.body_digest) == (one == other)


@given(HEADER_TEXT, HEADER_TEXT, st.binary())
def test_where_one_text_ends_and_the_next_begins_makes_a_difference(api_key, key, body):
    together = api_key + key
    splits = [(together[:place], together[place:]) for place in range(1, len(together))]
    ids = {claim(left, right, body, "").claim_id for left, right in splits}
    assert len(ids) == len(splits)


@given(CALLS, CALLS, st.binary())
def test_an_answer_is_opened_by_the_caller_with_both_keys_and_by_nobody_else(one, other, text):
    mine, theirs = claimed(one), claimed(other)
    sealed = mine.seal(text)
    assert mine.open(sealed) == text
    if one[:2] == other[:2]:
        assert theirs.open(sealed) == text
    else:
        with pytest.raises(InvalidTag):
            theirs.open(sealed)


def forms(secret):
    """Return the forms in which a text could be found: as it is, in JSON, and as its plain digest."""
    raw = secret.encode()
    digest = hashlib.sha256(raw)
    return [raw, secret.encode("utf-16-le"), ascii(secret)[1:-1].encode(), digest.digest(), digest.hexdigest().encode()]


async def served(path, secrets):
    """Make calls with the secrets: answered, repeated, mismatched, in flight; return what is stored at each step."""
    api_key, key, prompt, system_prompt, content = secrets
    images = []
    async with open_books(path) as books:
        await books.set_tenant(cap=CAP)
        desk = Desk(books, {"small": Provider(answer(content))})
        fields = {"user_message": prompt, "system_prompt": system_prompt}
        for asked in (fields, fields, fields | {"max_tokens": 7}):
            outcomes = await desk.complete_all([asked, asked], key=key, api_key=api_key)
            images.append(engines.stored_bytes(path))
            assert outcomes
        first = await desk.complete(fields, key=key, api_key=api_key)
        assert isinstance(first, Answer)
        assert content.encode() in first.body
        assert desk.called == ["small"]
        images.append(engines.stored_bytes(path))
    images.append(engines.stored_bytes(path))
    return images


def bodies(secrets):
    """Return the calls as they were sent and as they are digested."""
    _, _, prompt, system_prompt, _ = secrets
    sent = body_of(user_message=prompt, system_prompt=system_prompt)
    return [sent, msgspec.json.encode(decode_body(sent))]


@given(secrets=st.tuples(SECRET, SECRET, SECRET, SECRET, SECRET))
@settings(max_examples=settings().max_examples // 10, deadline=None)
def test_the_files_hold_neither_keys_nor_prompts_nor_answers_nor_their_plain_digests(engine, secrets):
    with tempfile.TemporaryDirectory() as folder:
        images = asyncio.run(served(Path(folder, "books.db"), secrets))
        engines.drop_databases(Path(folder))
    for image in images:
        # That something is found shows that it would be.
        assert b"growth" in image
        for secret in secrets:
            for form in forms(secret):
                assert form not in image
        for body in bodies(secrets):
            assert hashlib.sha256(body).digest() not in image
            assert hashlib.sha256(body).hexdigest().encode() not in image
    assert b"small inc" in images[-1]

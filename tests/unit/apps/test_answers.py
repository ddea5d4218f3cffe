"""Errors as HTTP."""

import json

import pytest

from tollhouse import errors
from tollhouse.apps.answers import error_answer


def kinds(base: type[errors.TollhouseError] = errors.TollhouseError) -> list[type[errors.TollhouseError]]:
    return [base, *(kind for each in base.__subclasses__() for kind in kinds(each))]


@pytest.mark.parametrize("kind", kinds())
def test_every_error_says_its_code_its_message_and_its_request(kind):
    status, headers, body = error_answer(kind('a "sentence" — fit for a person'), "req_1")
    assert status == kind.status
    assert json.loads(body) == {
        "error": kind.code,
        "message": 'a "sentence" — fit for a person',
        "request_id": "req_1",
    }
    named = dict(headers)
    assert len(named) == len(headers)
    assert named[b"content-type"] == b"application/json"
    assert named[b"content-length"] == str(len(body)).encode()
    assert named[b"x-request-id"] == b"req_1"
    assert (b"www-authenticate" in named) is (status == 401)
    assert b"retry-after" not in named


@pytest.mark.parametrize(("wait_s", "said"), [(0.0, b"1"), (0.2, b"1"), (1.0, b"1"), (1.001, b"2"), (59.5, b"60")])
def test_retry_after_is_in_whole_seconds_and_never_too_early(wait_s, said):
    _, headers, _ = error_answer(errors.RateLimited("wait", retry_after_s=wait_s), "req_1")
    assert dict(headers)[b"retry-after"] == said

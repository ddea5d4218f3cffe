"""One exception for each error that a call can meet, as the service tells it."""

import json
import pickle

import pytest

from tollhouse import errors as service_errors
from tollhouse.apps.openapi import COMPLETION_ERRORS
from tollhouse.client import errors
from tollhouse.client.errors import ApiError, GatewayError, RateLimited, UnexpectedAnswer, api_error, error_of


def every(base):
    return [base, *(deeper for each in base.__subclasses__() for deeper in every(each))]


def told(code, status):
    body = {"error": code, "message": "m", "request_id": "req_1"}
    error = api_error(json.dumps(body).encode(), status)
    assert error is not None
    return error


@pytest.mark.parametrize("of_service", COMPLETION_ERRORS, ids=lambda kind: kind.code)
def test_each_error_of_a_call_has_its_exception_with_code_and_status(of_service):
    found = told(of_service.code, of_service.status)
    assert (type(found).__name__, found.code, found.status) == (of_service.__name__, of_service.code, of_service.status)


def test_the_exceptions_form_the_same_tree_as_the_services_errors():
    for kind in every(ApiError)[1:]:
        of_service = getattr(service_errors, kind.__name__)
        names = [base.__name__ for base in of_service.__mro__]
        assert all(base.__name__ in names for base in kind.__mro__ if base not in {ApiError, object})


def test_the_tree_in_the_docstring_names_every_exception_under_its_parent():
    lines = errors.__doc__.splitlines()
    drawn = {}
    parents: list[str] = []
    for line in lines[lines.index("TollhouseError") :]:
        words = line.replace("│", " ").replace("├──", "   ").replace("└──", "   ").split()
        if not words:
            break
        depth = (len(line) - len(line.lstrip("│├└─ "))) // 4
        parents[depth:] = [words[0]]
        drawn[words[0]] = parents[depth - 1] if depth else "Exception"
    assert drawn == {kind.__name__: kind.__bases__[0].__name__ for kind in every(errors.TollhouseError)}


def test_a_code_of_a_later_version_is_of_its_status():
    error = told("ai_slow_down", 429)
    assert (type(error), error.code, error.status, error.request_id) == (RateLimited, "ai_slow_down", 429, "req_1")
    teapot = told("ai_teapot", 418)
    assert (type(teapot), teapot.code, teapot.status) == (ApiError, "ai_teapot", 418)


@pytest.mark.parametrize("body", [b"", b"<html>", b"{}", b"[]", b'{"error":{"message":"m"}}', b"\xff", b"[" * 100_000])
@pytest.mark.parametrize(
    ("status", "kind"),
    [(502, GatewayError), (503, GatewayError), (500, GatewayError), (429, GatewayError), (404, UnexpectedAnswer)],
)
def test_what_has_another_form_is_not_tollhouses(body, status, kind):
    error = error_of(status, body, request_id="req_of_header", retry_after_s=2.0)
    assert type(error) is kind
    assert (error.status, error.code, error.request_id, error.retry_after_s) == (status, None, "req_of_header", 2.0)


def test_an_error_says_what_is_needed_to_find_it():
    error = errors.BudgetExceeded("no money left", request_id="req_1")
    assert str(error) == "402 ai_budget_exceeded: no money left (request req_1)"
    assert str(errors.NotConnected("nobody listens")) == "nobody listens"


@pytest.mark.parametrize("kind", every(errors.TollhouseError))
def test_errors_survive_being_sent_between_processes(kind):
    error = kind("m", status=499, code="ai_x", request_id="req_1", retry_after_s=1.5, idempotency_key="k")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert vars(again) == vars(error)

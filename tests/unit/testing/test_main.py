import contextlib
import http.client
import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tollhouse.testing.__main__ import main

CHAT = b'{"model":"m","messages":[{"role":"user","content":"hello"}]}'


@contextlib.contextmanager
def process(*arguments: str) -> Iterator[tuple[subprocess.Popen[str], int]]:
    command = [sys.executable, "-m", "tollhouse.testing", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        try:
            assert running.stdout is not None
            line = running.stdout.readline()
            assert line.startswith("the fake provider listens on http://127.0.0.1:")
            yield running, int(line.rpartition(":")[2])
        finally:
            running.kill()


def ask(port: int) -> dict[str, object]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    with contextlib.closing(connection):
        connection.request("POST", "/chat/completions", CHAT)
        answer: dict[str, object] = json.loads(connection.getresponse().read())
        return answer


def test_the_command_serves_until_it_is_told_to_stop(tmp_path: Path):
    receipts = tmp_path / "receipts.jsonl"
    options = ["--receipts", str(receipts), "--delay-ms", "1", "--behaviour", '{"content": "as told"}']
    with process(*options) as (running, port):
        assert "as told" in json.dumps(ask(port))
        running.send_signal(signal.SIGTERM)
        assert running.wait(timeout=10) == 0
    assert [json.loads(line)["output_tokens"] for line in receipts.read_text().splitlines()] == [2]


def test_receipts_survive_the_kill_of_the_command(tmp_path: Path):
    receipts = tmp_path / "receipts.jsonl"
    with process("--receipts", str(receipts)) as (running, port):
        for _ in range(3):
            ask(port)
        running.kill()
        running.wait(timeout=10)
    assert len(receipts.read_text().splitlines()) == 3


def test_a_behaviour_that_cannot_be_read_stops_the_start(capsys):
    assert main(["--behaviour", '{"hangs": true}']) == 2
    assert "unknown field `hangs`" in capsys.readouterr().err


def test_a_port_that_is_taken_stops_the_start(capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert main(["--port", str(taken.getsockname()[1])]) == 2
    assert "the fake provider cannot start:" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--port", "http"], ["--unknown"]])
def test_wrong_options_are_explained(arguments, capsys):
    with pytest.raises(SystemExit):
        main(arguments)
    assert "usage: python -m tollhouse.testing" in capsys.readouterr().err

from pathlib import Path

import pytest

from tollhouse.cli.demo.children import Child, own_environment, wait_while_running
from tollhouse.errors import StartError

READY = "print('ready', flush=True); import sys; sys.stdin.read()"


def child_of(code: str, tmp_path: Path) -> Child:
    (tmp_path / "told.py").write_text(code)
    return Child("the child", ["told"], {"PYTHONPATH": str(tmp_path)}, tmp_path / "log")


def test_a_child_is_ready_with_its_first_line_and_ends_when_it_is_left(tmp_path):
    with child_of(READY, tmp_path) as child:
        assert child.wait_until_ready(30, lambda _: None) == "ready"
        assert child.is_running

    assert not child.is_running


def test_a_child_that_waits_for_its_input_ends_with_its_parent(tmp_path):
    with child_of(READY, tmp_path) as child:
        child.wait_until_ready(30, lambda _: None)
        assert child._process.stdin is not None

        child._process.stdin.close()

        assert wait_while_running([child]) is child


def test_a_child_that_cannot_start_is_told_of_with_the_end_of_its_log(tmp_path):
    code = "import sys; sys.stderr.write('one\\ntwo\\nthree\\nthe port is taken\\n'); sys.exit(2)"

    with (
        child_of(code, tmp_path) as child,
        pytest.raises(StartError, match=r"^the child ended with exit code 2: two / three / the port is taken$"),
    ):
        child.wait_until_ready(30, lambda _: None)


def test_a_child_that_takes_too_long_is_given_up_and_somebody_hears_of_the_waiting(tmp_path):
    heard: list[float] = []

    with (
        child_of("import time; time.sleep(60)", tmp_path) as child,
        pytest.raises(StartError, match=r"the child was not ready within 0\.3 s"),
    ):
        child.wait_until_ready(0.3, heard.append)

    assert heard == sorted(heard)
    assert heard
    assert not child.is_running


def test_a_child_is_asked_to_end_so_that_it_can_do_so_in_order(tmp_path):
    code = (
        "import signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit('ended in order'))\n"
        "print('ready', flush=True)\n"
        "time.sleep(60)"
    )

    with child_of(code, tmp_path) as child:
        child.wait_until_ready(30, lambda _: None)

    assert child.last_words() == ": ended in order"


def test_a_child_that_does_not_heed_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr("tollhouse.cli.demo.children._STOP_TIMEOUT_S", 0.2)
    code = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(60)"
    )

    with child_of(code, tmp_path) as child:
        child.wait_until_ready(30, lambda _: None)

    assert not child.is_running


def test_a_module_in_the_childs_directory_does_not_take_anothers_place(tmp_path):
    (tmp_path / "json.py").write_text("raise SystemExit('a stray file was run')")
    with Child("json", ["json.tool", "--help"], {}, tmp_path / "log") as child:
        assert child.wait_until_ready(30, lambda _: None).startswith("usage:")


def test_what_would_lead_the_demo_elsewhere_is_left_out_of_its_environment(monkeypatch):
    monkeypatch.setenv("TOLLHOUSE_SERVER__PORT", "1")
    monkeypatch.setenv("TOLLHOUSE_ADMIN_KEY", "kept")
    monkeypatch.setenv("NO_PROXY", "example.com")
    monkeypatch.setenv("__OTHER__", "kept")

    environ = own_environment()

    assert "TOLLHOUSE_SERVER__PORT" not in environ
    assert (environ["TOLLHOUSE_ADMIN_KEY"], environ["__OTHER__"]) == ("kept", "kept")
    assert environ["NO_PROXY"] == environ["no_proxy"] == "127.0.0.1"

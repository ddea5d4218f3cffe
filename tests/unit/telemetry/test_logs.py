import json
import subprocess
import sys

import pytest

CODE = """
import structlog
from tollhouse.telemetry.logs import configure_logs

def fail(prompt):
    raise ValueError("it failed")

configure_logs(as_json={as_json}, level={level!r})
log = structlog.get_logger("tests")
log.info("served", calls=7)
try:
    fail("a secret " + "prompt")
except ValueError:
    log.exception("not served")
"""


def logged(*, as_json: bool, level: str) -> str:
    """What a process logs that has something to tell, and something that failed."""
    code = CODE.format(as_json=as_json, level=level)
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert told.stdout == ""
    return told.stderr


def test_programs_get_a_json_object_for_each_message():
    info, error = (json.loads(line) for line in logged(as_json=True, level="info").splitlines())

    assert (info["level"], info["event"], info["calls"]) == ("info", "served", 7)
    assert (error["level"], error["event"]) == ("error", "not served")
    assert "ValueError: it failed" in error["exception"]


def test_people_get_text():
    text = logged(as_json=False, level="info")

    assert "served" in text.splitlines()[0]
    assert "calls=7" in text.splitlines()[0]
    assert "ValueError: it failed" in text


@pytest.mark.parametrize("as_json", [True, False])
def test_what_is_below_the_level_is_left_out(as_json):
    text = logged(as_json=as_json, level="warning")

    assert "calls" not in text
    assert "not served" in text


@pytest.mark.parametrize("as_json", [True, False])
def test_the_values_of_variables_are_in_no_traceback(as_json):
    text = logged(as_json=as_json, level="info")

    assert "fail" in text
    assert "a secret prompt" not in text

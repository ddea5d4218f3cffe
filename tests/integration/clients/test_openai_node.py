"""OpenAI's client for Node.js: every vendor's models, whole and streamed, and its classes of errors."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from harness.client_calls import ANSWER, WEATHER_CALL, Client
from tollhouse.testing import Behaviour

pytestmark = pytest.mark.engine("sqlite")

MODELS = ("gpt-4o-mini", "claude-haiku-4-5", "gemini-2.5-flash")
NODE = Path(__file__).parent / "node"
OLDEST = 20


@pytest.fixture(scope="session")
def installed(tmp_path_factory) -> Path:
    """The client, in the version that the lock file has, with what runs it."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node is None or npm is None:
        pytest.skip("Node.js with npm is not installed")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if int(version.removeprefix("v").partition(".")[0]) < OLDEST:
        pytest.skip(f"Node.js {version} is older than {OLDEST}")
    directory: Path = tmp_path_factory.mktemp("node")
    for file in ("package.json", "package-lock.json", "scenarios.mjs"):
        shutil.copy(NODE / file, directory)
    command = [npm, "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=100, check=False)
    if done.returncode:
        pytest.skip(f"npm could not install OpenAI's client: {done.stderr[-300:]}")
    return directory


@pytest.fixture
def run(installed: Path, client: Client):
    def run_scenario(name: str, model: str, key: str = client.key) -> Any:
        environ = {**os.environ, "TOLLHOUSE_URL": f"{client.url}/v1", "TOLLHOUSE_KEY": key}
        done = subprocess.run(
            ["node", "scenarios.mjs", name, model],
            cwd=installed,
            env=environ,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run_scenario


def check_usage(usage, receipt):
    assert usage["prompt_tokens"] == receipt.input_tokens + receipt.cached_input_tokens
    assert usage["prompt_tokens_details"]["cached_tokens"] == receipt.cached_input_tokens == 30
    assert usage["completion_tokens"] == receipt.output_tokens + receipt.reasoning_tokens
    assert usage["completion_tokens_details"]["reasoning_tokens"] == receipt.reasoning_tokens == 11


@pytest.mark.parametrize("model", MODELS)
def test_an_answer(client, run, model):
    client.told()
    said = run("chat", model)
    assert said["message"]["content"] == ANSWER
    assert (said["finish_reason"], said["model"]) == ("stop", model)
    check_usage(said["usage"], client.settled())


@pytest.mark.parametrize("model", MODELS)
def test_a_stream(client, run, model):
    client.told()
    said = run("stream", model)
    assert "".join(said["texts"]) == ANSWER
    assert len(said["texts"]) == len(ANSWER.split())
    assert said["finish_reason"] == "stop"
    check_usage(said["usage"], client.settled())


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("scenario", ["tool", "tool_in_a_stream"])
def test_a_tool_is_called(client, run, scenario, model):
    client.told(tool_call=WEATHER_CALL)
    said = run(scenario, model)
    (call,) = said["message"]["tool_calls"]
    assert call["function"]["name"] == "get_weather"
    assert json.loads(call["function"]["arguments"]) == WEATHER_CALL.arguments
    assert said["finish_reason"] == "tool_calls"
    check_usage(said["usage"], client.settled())


@pytest.mark.parametrize("model", MODELS)
def test_the_client_runs_tools_by_itself(client, run, model):
    client.told()
    client.fake.script([Behaviour(tool_call=WEATHER_CALL)])
    said = run("run_tools", model)
    assert said == {"content": ANSWER, "asked": [WEATHER_CALL.arguments], "requests": 2}
    assert "Rain, as ever." in json.dumps(client.sent())
    client.settled(calls=2)


@pytest.mark.parametrize("model", MODELS)
def test_responses(client, run, model):
    client.told()
    said = run("responses", model)
    assert "".join(said["texts"]) == said["text"] == said["whole"] == ANSWER
    assert len(said["texts"]) == len(ANSWER.split())
    assert said["status"] == "completed"
    assert said["usage"]["total_tokens"] == client.settled(calls=2).total_tokens


def test_embeddings(client, run):
    client.fake.behave(Behaviour(input_tokens=7))
    said = run("embeddings", "text-embedding-3-small")
    assert said["lengths"] == [8, 8]
    assert said["usage"]["prompt_tokens"] == client.settled().input_tokens == 7


def test_models(run):
    said = run("models", "claude-haiku-4-5")
    assert set(MODELS) < set(said["ids"])
    assert said["one"] == "claude-haiku-4-5"


def check_error(said, kind, status, code, requests=1):
    error = said["error"]
    assert (error["class"], error["status"], error["code"]) == (kind, status, code)
    assert error["requestID"].startswith("req_")
    assert said["requests"] == requests
    return error


@pytest.mark.parametrize("scenario", ["chat", "stream"])
def test_errors_have_the_clients_own_classes(client, run, scenario):
    check_error(run(scenario, "gpt-4o-mini", "tk_of_nobody"), "AuthenticationError", 401, "ai_unauthorized")
    check_error(run(scenario, "gpt-nowhere"), "NotFoundError", 404, "ai_model_unknown")
    client.service.tenant(client.tenant, budget_usd=0)
    error = check_error(run(scenario, "gpt-4o-mini"), "APIError", 402, "ai_budget_exceeded")
    assert error["type"] == "insufficient_quota"
    client.service.tenant(client.tenant, is_active=False)
    check_error(run(scenario, "gpt-4o-mini"), "PermissionDeniedError", 403, "ai_module_inactive")
    client.service.tenant(client.tenant)
    assert client.fake.receipts() == []
    client.fake.behave(Behaviour(status=503, retry_after_s=0))
    for model in MODELS[:2]:
        check_error(run(scenario, model), "InternalServerError", 503, "ai_unavailable", requests=3)
    client.nothing_billed()


@pytest.mark.parametrize("model", MODELS[:2])
@pytest.mark.parametrize("how", [{"cut_after_events": 6}, {"error_after_events": 6}])
def test_a_stream_that_the_provider_breaks_off_is_an_error(client, run, model, how):
    client.told(content=" ".join(["word"] * 20), **how)
    error = run("stream", model)["error"]
    assert error["is_api_error"]
    assert error["code"] == "ai_unavailable"
    (row,) = client.service.rows(tenant_id=client.tenant)
    assert (row["status"], row["usage_source"]) == ("settled", "estimated")

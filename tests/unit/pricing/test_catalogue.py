import asyncio
import subprocess
import sys

import pytest

from tollhouse.errors import StartError
from tollhouse.pricing import catalogue
from tollhouse.pricing.catalogue import Catalogue, CatalogueQuery, compile_catalogue
from tollhouse.pricing.model import cost_nano_usd
from tollhouse.providers.usage import Usage

NOW_MS = 1_795_000_000_000

HAIKU = CatalogueQuery(
    model="haiku", upstream_model="claude-haiku-4-5", kind="anthropic", base_url="http://127.0.0.1:9999"
)
LOCAL = CatalogueQuery(model="local", upstream_model="smollm2", kind="openai", base_url="http://127.0.0.1:9999/v1")


def run(*wanted: CatalogueQuery, timeout_s: float = 30.0) -> Catalogue:
    return asyncio.run(compile_catalogue(wanted, now_ms=NOW_MS, timeout_s=timeout_s))


def child_is(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    monkeypatch.setattr(catalogue, "_COMPILER", (sys.executable, "-c", code))


def recorded_children(monkeypatch: pytest.MonkeyPatch) -> list[asyncio.subprocess.Process]:
    started = []
    spawn = asyncio.create_subprocess_exec

    async def recording_spawn(*args, **options):
        started.append(await spawn(*args, **options))
        return started[-1]

    monkeypatch.setattr(asyncio, "create_subprocess_exec", recording_spawn)
    return started


def test_the_child_process_prices_what_the_catalogue_knows_and_leaves_out_the_rest():
    known = run(HAIKU, LOCAL)
    assert list(known.prices) == ["haiku"]
    (price,) = known.prices["haiku"]
    assert cost_nano_usd(price, Usage(input_tokens=312, output_tokens=87)) == 312_000 + 435_000
    assert known.context_windows == {"haiku": 200_000}


def test_a_stray_module_in_the_working_directory_is_not_run(tmp_path, monkeypatch):
    (tmp_path / "json.py").write_text("raise SystemExit('the stray module was run')")
    (tmp_path / "genai_prices.py").write_text("raise SystemExit('the stray module was run')")
    monkeypatch.chdir(tmp_path)
    assert "haiku" in run(HAIKU).prices


def test_without_wanted_models_no_process_is_started(monkeypatch):
    monkeypatch.setattr(catalogue, "_COMPILER", ("/nonexistent",))
    assert run() == Catalogue({}, {})


def test_the_serving_process_does_not_load_the_catalogue():
    code = (
        "import sys, tollhouse.pricing.book, tollhouse.pricing.catalogue, tollhouse.pricing.model\n"
        "assert not {'genai_prices', 'pydantic'} & sys.modules.keys(), 'loaded'"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_child_that_cannot_be_started_stops_the_start(monkeypatch):
    monkeypatch.setattr(catalogue, "_COMPILER", ("/nonexistent",))
    with pytest.raises(StartError, match=r"could not be started .*price = \{ input"):
        run(HAIKU)


def test_a_child_that_fails_stops_the_start_with_its_last_words(monkeypatch):
    child_is(monkeypatch, "import sys; sys.exit('first line\\nModuleNotFoundError: genai_prices')")
    with pytest.raises(StartError, match="exit status 1, ModuleNotFoundError: genai_prices"):
        run(HAIKU)


def test_a_child_that_fails_without_a_word_still_says_how(monkeypatch):
    child_is(monkeypatch, "import sys; sys.exit(3)")
    with pytest.raises(StartError, match="exit status 3"):
        run(HAIKU)


@pytest.mark.parametrize(
    "output", ["", "{", '{"haiku": 1}', '{"prices": {"haiku": [{"version": ""}]}, "context_windows": {}}']
)
def test_a_child_that_writes_something_else_stops_the_start(monkeypatch, output):
    child_is(monkeypatch, f"import sys; sys.stdin.read(); sys.stdout.write({output!r})")
    with pytest.raises(StartError, match="not a table of prices"):
        run(HAIKU)


def test_a_child_that_hangs_is_killed_and_stops_the_start(monkeypatch):
    child_is(monkeypatch, "import time; time.sleep(60)")
    started = recorded_children(monkeypatch)
    with pytest.raises(StartError, match=r"longer than 0\.05 s"):
        run(HAIKU, timeout_s=0.05)
    assert started[0].returncode == -9


def test_a_cancelled_compilation_leaves_no_child_behind(monkeypatch):
    child_is(monkeypatch, "import time; time.sleep(60)")
    started = recorded_children(monkeypatch)

    async def cancel() -> None:
        task = asyncio.create_task(compile_catalogue([HAIKU], now_ms=NOW_MS))
        while not started:
            await asyncio.sleep(0.001)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()

    asyncio.run(cancel())
    assert started[0].returncode == -9

"""The engines that tests run on: those that use ``engine`` run once on each, unless they are marked for one."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
import structlog

from harness import engines

# The default draws each traceback as a picture in colours, which takes longer than most tests do.
structlog.configure(
    processors=[
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
    ]
)


@pytest.fixture(scope="session", params=engines.ENGINES)
def engine(request: pytest.FixtureRequest) -> Iterator[engines.Engine]:
    with engines.using(request.param):
        yield request.param
        engines.drop_databases()


@pytest.fixture(autouse=True)
def _on_sqlite_unless_it_asks(request: pytest.FixtureRequest) -> Iterator[None]:
    """The engine of the tests before it lasts as long as any may need it: a test that names none is not for that."""
    if "engine" in request.fixturenames:
        yield
        return
    with engines.using("sqlite"):
        yield


@pytest.fixture
def on_each_engine(engine: engines.Engine, tmp_path: Path) -> Iterator[None]:
    """For tests that open databases under their own ``tmp_path``."""
    yield
    engines.drop_databases(tmp_path)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what a test is marked not to run on, and keep together what belongs together."""
    left_out = []
    for item in items:
        mark = item.get_closest_marker("engine")
        callspec = getattr(item, "callspec", None)
        if mark is not None and callspec is not None and callspec.params.get("engine") not in {None, *mark.args}:
            left_out.append(item)
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        gone = set(left_out)
        items[:] = [item for item in items if item not in gone]
    for item in items:
        item.add_marker(pytest.mark.xdist_group(_shared_by(item)))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Stop where tests are to be kept together and are not: it would show in nothing but the time that they take."""
    option = session.config.option
    if getattr(option, "loadgroup", False) and any("@" not in item.nodeid for item in session.items):
        raise pytest.UsageError("pytest-xdist does not group tests with this version of pytest")


# By a fixture of theirs, files that share processes.
_SHARED = {"instances": "faults", "front": "edge"}


def _shared_by(item: pytest.Item) -> str:
    """Name what tests share that is dear to start: whoever runs one of them runs them all.

    That is what those of one file share on one engine, and the processes that several files leave as they were.
    """
    callspec = getattr(item, "callspec", None)
    engine = "" if callspec is None else callspec.params.get("engine", "")
    names: Sequence[str] = getattr(item, "fixturenames", ())
    place = f"{item.path.parent.name} {item.path.stem}"
    for fixture, shared in _SHARED.items():
        place = shared if fixture in names else place
    return f"{place} {engine}"

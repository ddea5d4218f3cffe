"""The engines that tests run on: those that use ``engine`` run once on each, unless they are marked for one."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import engines


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
        # Tests of one file share what is dear to start, on one engine: whoever runs one of them runs them all.
        callspec = getattr(item, "callspec", None)
        engine = "" if callspec is None else callspec.params.get("engine", "")
        item.add_marker(pytest.mark.xdist_group(f"{item.path.stem} {item.path.parent.name} {engine}"))

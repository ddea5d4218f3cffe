"""Either client, before a server that answers as a script says."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from harness.python_client import KINDS, Either, Kind, client_of
from harness.scripted import ScriptedServer, completion


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    with ScriptedServer(completion()) as server:
        yield server


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    kind: Kind = request.param
    return kind


@pytest.fixture
def make(kind: Kind, server: ScriptedServer) -> Iterator[Callable[..., Either]]:
    """Makes clients of the server."""
    made: list[Either] = []

    def make(url: str | None = None, **options: Any) -> Either:
        made.append(client_of(kind, url or server.url, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def client(make: Callable[..., Either]) -> Either:
    return make()

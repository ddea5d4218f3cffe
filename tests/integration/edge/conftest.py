"""Two real instances of Tollhouse on one PostgreSQL database, stubs beside them, and an nginx or an Envoy in front."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from harness.calls import body_for
from harness.edge import KINDS, Edge, Kind, Stub, closed_port
from harness.engines import Engine
from harness.service import Reply, Service, TenantId, eventually, limits, model, providers
from tollhouse.testing import FakeProvider


@pytest.fixture(scope="package")
def fake() -> Iterator[FakeProvider]:
    with FakeProvider() as fake:
        yield fake


def configuration(fake: FakeProvider) -> str:
    """Return a configuration without a limit of its own: what is limited in these tests is limited by the edge."""
    events = "[events]\nheartbeat_s = 0.3\n"
    return providers(fake) + model("m", "openai") + model("claude", "anthropic") + limits() + events


@pytest.fixture(scope="package")
def two_instances(
    engine: Engine, fake: FakeProvider, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Service, Service]]:
    folder = tmp_path_factory.mktemp("behind-the-edge")
    for name in ("one", "other"):
        (folder / name).mkdir()
    one = Service(folder / "one", configuration(fake))
    other = Service(folder / "other", configuration(fake), url=one.database_url)
    with one, other:
        yield one, other


class Front:
    """An edge in front of both instances, with stubs and ports where nobody listens as the instances of features.

    Attributes:
        stub: takes the requests of the feature ``stub``, and those of ``half`` that meet no closed port.
        pair: take those of the feature ``pair``.
    """

    def __init__(self, kind: Kind, instances: tuple[Service, Service], directory: Path, stack: ExitStack) -> None:
        self.one, self.other = instances
        self.stub = stack.enter_context(Stub())
        self.pair = (stack.enter_context(Stub()), stack.enter_context(Stub()))
        closed = [f"127.0.0.1:{stack.enter_context(closed_port())}" for _ in range(3)]
        features = [
            ("stub", self.stub.address),
            *(("pair", each.address) for each in self.pair),
            ("half", closed[0]),
            ("half", self.stub.address),
            ("down", closed[1]),
            ("down", closed[2]),
        ]
        options = [f"--upstream=127.0.0.1:{each.port}" for each in instances]
        options += [f"--feature-upstream={feature}={address}" for feature, address in features]
        self.edge = stack.enter_context(Edge(kind, directory, *options))

    def tenant_with_key(self, **wanted: object) -> tuple[TenantId, str]:
        """Return a new tenant, and a key that is bound to it."""
        tenant = self.one.tenant()
        return tenant, self.new_key(tenants=[tenant], **wanted)

    def new_key(self, **wanted: object) -> str:
        """Return a new key that both instances know: the one that did not make it learns of it a moment later."""
        key: str = self.one.new_key(**wanted)["key"]
        eventually(lambda: self.other.request("GET", "/edge/authorize", key=key).status == 200)
        return key

    def complete(self, tenant: TenantId, key: str, **headers: str) -> Reply:
        return self.edge.request("POST", "/ai/complete", body_for(tenant, model="m"), key=key, **headers)

    def at_stub(self, method: str, path: str, body: object = None, feature: str = "stub", **headers: str) -> Reply:
        """Send a request that the edge leads to a stub."""
        return self.edge.request(method, path, body, key=self.key, x_feature_slug=feature, **headers)

    @property
    def key(self) -> str:
        """A key for all tenants, whose requests the edge does not count."""
        if not hasattr(self, "_key"):
            self._key = self.new_key()
        return self._key


@pytest.fixture(scope="package", params=KINDS)
def front(
    request: pytest.FixtureRequest, two_instances: tuple[Service, Service], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Front]:
    with ExitStack() as stack:
        yield Front(request.param, two_instances, tmp_path_factory.mktemp(request.param), stack)

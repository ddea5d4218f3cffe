"""PostgreSQL stopped, frozen, slow, read-only, out of connections, or cutting connections in the midst of commits.

Calls are told 503 and when to try again, nothing is dispatched meanwhile, and all goes on by itself.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator

import psycopg
import pytest
import uvloop

from harness.faults import check_refusals, first_served_s, measure, new_key, seconds_until_served
from harness.faults_service import started
from harness.load import Outcome, all_at_once, until
from harness.postgres import ROLE, PostgresServer
from harness.reckoning import number_of, numbered, numbered_call
from harness.service import ADMIN_KEY, PROVIDER_KEY, Service, eventually
from tollhouse.storage.postgres.control import migrate_database
from tollhouse.testing import Behaviour, FakeProvider

pytestmark = pytest.mark.engine("postgresql")

CALLERS, MEANWHILE = 20, 30
# How long a call waits for the database: short, so that the tests are.
TIMEOUT_S = 3


@pytest.fixture(scope="module")
def server(engine, tmp_path_factory) -> Iterator[PostgresServer]:
    """A server of these tests' own."""
    with PostgresServer(tmp_path_factory.mktemp("server"), settings={"max_connections": "40"}) as server:
        server.create_database("books")
        migrate_database(server.url("books"))
        yield server


@pytest.fixture(scope="module")
def services(server, config, tmp_path_factory) -> Iterator[list[Service]]:
    """Two instances."""
    services = [Service(tmp_path_factory.mktemp("on-its-own"), config, url=server.url("books")) for _ in range(2)]
    for service in services:
        service.environ["TOLLHOUSE_DATABASE__TIMEOUT_S"] = str(TIMEOUT_S)
    with started(services):
        yield services


@pytest.fixture(autouse=True)
def _server_as_it_was(server: PostgresServer) -> Iterator[None]:
    """Whatever a test that fails has left undone, the next one finds the server running."""
    yield
    if not server.is_running:
        server.start()
    server.resume()


class Load:
    """Calls from both instances while something is done to their database."""

    def __init__(self, services: list[Service], fake: FakeProvider) -> None:
        self.services, self.fake = services, fake
        self.tenant, self.key = services[0].tenant(), new_key(services)
        self._aside = services[0].tenant()
        fake.behave(Behaviour(delay_s=0.01))
        self.outcomes: list[Outcome] = []
        self._meanwhile: list[Outcome] = []
        self.ended_s = 0.0

    def run(self, do: Callable[[], object]) -> None:
        """Call; once calls are under way, do it, and go on until calls are served again by each instance."""

        def work() -> None:
            eventually(lambda: len(self.fake.receipts()) > 5 * CALLERS)
            do()
            self.ended_s = time.monotonic()
            self.wait_until_served()
            time.sleep(0.2)

        ports = [service.port for service in self.services]
        calls = numbered(self.tenant, self.key, is_idempotent=True)
        self.outcomes = uvloop.run(until(lambda: asyncio.to_thread(work), ports, calls, callers=CALLERS))
        self.outcomes += self._meanwhile

    def wait_until_served(self) -> None:
        for service in self.services:
            seconds_until_served(service, self._aside)

    def call_meanwhile(self) -> None:
        """Make further calls, since all callers may be waiting for what the database was asked before: all are refused.

        They begin and end while the database is as it is, so that none of them may have been dispatched.
        """
        start = 1_000_000 + len(self._meanwhile)
        calls = [numbered_call(number, self.tenant, self.key) for number in range(start, start + MEANWHILE)]
        new = asyncio.run(all_at_once([service.port for service in self.services], calls))
        for number, outcome in enumerate(new, start=start):
            outcome.number = number
        self._meanwhile += new
        assert {outcome.status for outcome in new} == {503}
        assert not {outcome.number for outcome in new} & {number_of(receipt) for receipt in self.fake.receipts()}

    def check(self, scenario: str, **further: object) -> None:
        assert {outcome.status for outcome in self.outcomes} <= {200, 503}
        check_refusals(self.outcomes)
        eventually(lambda: not self.services[0].open_reservations())
        figures = measure(self.services[0], self.fake, self.tenant, self.outcomes)
        figures.check(scenario, recovered_s=first_served_s(self.outcomes, self.ended_s), **further)


@pytest.fixture
def load(services, fake) -> Load:
    return Load(services, fake)


def stop_and_start(load: Load, server: PostgresServer) -> None:
    server.stop("immediate")
    load.call_meanwhile()
    time.sleep(0.5)
    load.call_meanwhile()
    server.start()


def test_a_server_that_is_stopped_at_once_and_started_under_load(load, services, server):
    load.run(lambda: stop_and_start(load, server))
    load.check("PostgreSQL immediate stop and restart under load")
    # Statements that failed carry what they were to write: neither log repeats prompts, answers or keys.
    logs = {"the server": server.log(), **{f"instance {place}": each.log() for place, each in enumerate(services)}}
    secrets = ("Call number", "sales analyst", "quick brown fox", "call-1", ADMIN_KEY, PROVIDER_KEY, load.key)
    assert {name: [each for each in secrets if each in log] for name, log in logs.items()} == {
        name: [] for name in logs
    }
    assert all("the database cannot be reached" in log for name, log in logs.items() if name != "the server")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_server_that_is_stopped_at_once_and_started_20_times(load, server):
    def again_and_again() -> None:
        for _ in range(20):
            stop_and_start(load, server)
            load.wait_until_served()
            time.sleep(0.3)

    load.run(again_and_again)
    load.check("PostgreSQL immediate stop and restart, 20 times")


def test_commits_whose_connection_is_cut_are_found_out_by_looking(load, server):
    """Cut again and again: many a commit's answer is lost on the way, and each call's end is known all the same."""
    cut = 0

    def cut_connections() -> None:
        nonlocal cut
        deadline_s = time.monotonic() + 2.5
        while time.monotonic() < deadline_s:
            cut += len(
                server.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'tollhouse' "
                    "AND state = 'active' AND datname = 'books'"
                )
            )
            time.sleep(0.05)

    load.run(cut_connections)
    assert cut > 5
    load.check("connections cut in the midst of transactions", cut=cut)


def test_a_server_that_is_frozen_for_longer_than_anybody_waits(load, server):
    def freeze() -> None:
        server.pause()
        # Calls wait until they are told.
        load.call_meanwhile()
        server.resume()

    load.run(freeze)
    load.check("PostgreSQL frozen past every patience")


def test_a_server_that_takes_2_seconds_for_a_commit(load, server):
    def freeze_for_a_while() -> None:
        server.pause()
        time.sleep(2.0)
        server.resume()

    load.run(freeze_for_a_while)
    load.check("PostgreSQL slow, 2 s for a commit")


def test_a_server_that_takes_no_writes_as_when_another_becomes_the_primary(load, server):
    def read_only_for_a_while() -> None:
        server.execute("ALTER SYSTEM SET default_transaction_read_only = on")
        server.execute("SELECT pg_reload_conf()")
        # Until the last connection has taken it over.
        time.sleep(0.5)
        load.call_meanwhile()
        server.execute("ALTER SYSTEM RESET default_transaction_read_only")
        server.execute("SELECT pg_reload_conf()")

    load.run(read_only_for_a_while)
    load.check("PostgreSQL read-only, as after a failover")


def test_a_storm_of_connections_that_leaves_none_for_those_that_broke(load, server):
    def storm() -> None:
        with contextlib.ExitStack() as stack:
            with contextlib.suppress(psycopg.OperationalError):
                while True:
                    stack.enter_context(psycopg.connect(server.url("postgres"), connect_timeout=5))
            # What becomes free now is not to be had either.
            server.execute(f"ALTER ROLE {ROLE} CONNECTION LIMIT 1")
            server.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name ~ 'tollhouse'"
            )
            time.sleep(0.2)
            load.call_meanwhile()
            time.sleep(0.5)
            load.call_meanwhile()
        server.execute(f"ALTER ROLE {ROLE} CONNECTION LIMIT -1")

    load.run(storm)
    load.check("connection storm: no connection to be had")

"""Those who tell events are killed, and their database goes away: who follows misses nothing and gets nothing twice."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from harness.followers import Outcome, Writers, follow_through
from harness.postgres import PostgresServer
from harness.service import Service, serving
from integration.test_notifier import Notifier
from tollhouse.storage.postgres.control import migrate_database

CONFIG = "[events]\nheartbeat_s = 0.5\n"


@contextlib.contextmanager
def notifiers(folder: Path, service: Service, count: int = 2) -> Iterator[list[Notifier]]:
    with contextlib.ExitStack() as stack:
        made = []
        for number in range(count):
            (folder / str(number)).mkdir()
            made.append(stack.enter_context(Notifier(folder / str(number), CONFIG, url=service.database_url)))
        yield made


def kill_in_turn(told_by: Sequence[Service], ports: list[int], kills: int) -> Callable[[Writers], None]:
    """Return what kills one after the other, and starts it again; ``ports`` are kept to those that run."""

    def disturb(writers: Writers) -> None:
        for number in range(kills):
            time.sleep(0.3)
            victim = told_by[number % len(told_by)]
            ports.remove(victim.port)
            victim.kill()
            # An embedded database has one program that writes while it is opened.
            with writers.may_write if len(told_by) == 1 else contextlib.nullcontext():
                victim.start()
            ports.append(victim.port)
        time.sleep(0.3)

    return disturb


def killed(engine: str, folder: Path, *, clients: int, tenants: int, kills: int) -> Outcome:
    with serving(folder, CONFIG) as service, contextlib.ExitStack() as stack:
        told_by: list[Service] = [service]
        if engine == "postgresql":
            told_by = [*stack.enter_context(notifiers(folder, service))]
        ports = [each.port for each in told_by]

        def open_ports() -> list[int]:
            # Where none runs just now, the next try finds one.
            return list(ports) or [1]

        outcome = follow_through(
            service,
            open_ports,
            kill_in_turn(told_by, ports, kills),
            tenants=range(1, tenants + 1),
            clients=clients,
        )
    print(f"\nFOLLOWERS {engine}: clients={clients} kills={kills} {outcome}")
    return outcome


def test_who_follows_a_process_that_is_killed_goes_on_at_another(engine, tmp_path):
    outcome = killed(engine, tmp_path, clients=20, tenants=4, kills=2)
    assert outcome.is_exact, outcome
    assert outcome.cuts > 0


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_many_kills_under_many_followers(engine, tmp_path):
    outcome = killed(engine, tmp_path, clients=300, tenants=30, kills=30)
    assert outcome.is_exact, outcome
    assert outcome.cuts > 0


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.engine("postgresql")
@pytest.mark.parametrize("how", ["fast", "immediate", "killed"])
def test_a_database_that_is_restarted_under_followers(engine, tmp_path, how):
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(PostgresServer(tmp_path / "server", settings={"max_connections": "60"}))
        server.create_database("events")
        migrate_database(server.url("events"))
        (tmp_path / "service").mkdir()
        service = stack.enter_context(Service(tmp_path / "service", CONFIG, url=server.url("events")))
        told_by = stack.enter_context(notifiers(tmp_path, service))

        def disturb(_writers: Writers) -> None:
            for _ in range(3):
                time.sleep(1)
                if how == "killed":
                    server.kill()
                    server.start()
                else:
                    server.restart(how)
            time.sleep(2)

        outcome = follow_through(
            service, lambda: [each.port for each in told_by], disturb, tenants=range(1, 11), clients=100
        )
        print(f"\nFOLLOWERS restart {how}: {outcome}")
        assert outcome.is_exact, outcome
        # Streams outlive it; who comes while it is down is told to try again.
        assert outcome.cuts == 0

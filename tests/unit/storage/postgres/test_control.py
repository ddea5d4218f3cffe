"""The control plane's transactions: what is tried again, what is found out, and what nobody may do."""

import threading
import time

import psycopg
import pytest
import sqlalchemy as sa

from harness.postgres import shared_server
from tollhouse.errors import NotFound
from tollhouse.storage.postgres import control
from tollhouse.storage.schema import ai_settings

PUT = sa.insert(ai_settings)


@pytest.fixture
def engine(url):
    opened = control.open_engine(url)
    yield opened
    opened.dispose()


def put(connection, name, value="v"):
    connection.execute(PUT.values(name=name, value=value))
    return f"put {name}"


def settings(name):
    """Return the rows that tests have put, as anybody sees them."""
    rows = shared_server().execute("SELECT name, value FROM ai_settings WHERE name NOT LIKE 'functions%'", name)
    return dict(map(tuple, rows))


def fail(connection, state):
    connection.exec_driver_sql(f"DO $$ BEGIN RAISE EXCEPTION 'refused' USING ERRCODE = '{state}'; END $$")


def end_backend(connection):
    pid = connection.connection.driver_connection.info.backend_pid
    shared_server().execute("SELECT pg_terminate_backend($1)", "postgres", pid)


# Writes.


@pytest.mark.parametrize("state", ["40001", "40P01", "55P03", "23505"])
def test_a_write_that_met_another_one_is_made_again(engine, name, state):
    tries = []

    def work(connection):
        tries.append(state)
        put(connection, "a")
        if len(tries) < 3:
            fail(connection, state)
        return "done"

    assert control.write(engine, work) == "done"
    assert len(tries) == 3
    assert settings(name) == {"a": "v"}


def test_a_write_that_never_passes_is_given_up(engine, name):
    tries = []

    def work(connection):
        tries.append(1)
        put(connection, "a")
        fail(connection, "40001")

    with pytest.raises(sa.exc.DBAPIError, match="refused"):
        control.write(engine, work)
    assert len(tries) == control._WRITE_TRIES
    assert settings(name) == {}


@pytest.mark.parametrize("state", ["23514", "P0001", "42501"])
def test_a_write_that_breaks_a_rule_is_not_made_again(engine, name, state):
    tries = []

    def work(connection):
        tries.append(1)
        put(connection, "a")
        fail(connection, state)

    with pytest.raises(sa.exc.DBAPIError):
        control.write(engine, work)
    assert len(tries) == 1
    assert settings(name) == {}


def test_two_writes_for_one_new_row_both_pass(engine, name):
    """The second waits for the first, meets its row, and finds it when it is made again."""
    first_has_put, tries = threading.Event(), []

    def first(connection):
        put(connection, "a", "first")
        first_has_put.set()
        while not shared_server().execute("SELECT FROM pg_stat_activity WHERE wait_event_type = 'Lock'"):
            pass

    def second(connection):
        tries.append(1)
        found = connection.scalar(sa.select(ai_settings.c.value).where(ai_settings.c.name == "a"))
        return found or put(connection, "a", "second")

    writing = threading.Thread(target=control.write, args=(engine, first))
    writing.start()
    assert first_has_put.wait(20)
    assert control.write(engine, second) == "first"
    writing.join()
    assert len(tries) == 2
    assert settings(name) == {"a": "first"}


@pytest.mark.parametrize("error", [NotFound("there is none"), RuntimeError("a defect"), KeyboardInterrupt()])
def test_a_write_that_raises_is_undone(engine, name, error):
    def work(connection):
        put(connection, "a")
        raise error

    with pytest.raises(type(error)):
        control.write(engine, work)
    assert settings(name) == {}


def test_a_connection_that_breaks_during_a_write_is_told_and_nothing_was_written(engine, name):
    def work(connection):
        put(connection, "a")
        end_backend(connection)
        put(connection, "b")

    with pytest.raises(sa.exc.DBAPIError) as caught:
        control.write(engine, work)
    assert control.is_the_servers_trouble(caught.value)
    assert settings(name) == {}
    assert control.write(engine, lambda connection: put(connection, "c")) == "put c"


def test_a_commit_that_did_not_arrive_is_told(engine, name, monkeypatch):
    looked = note_looks(monkeypatch)
    break_next_commit(engine, "before")
    with pytest.raises(sa.exc.DBAPIError):
        control.write(engine, lambda connection: put(connection, "a"))
    assert looked == [False]
    assert settings(name) == {}


def test_a_commit_whose_answer_is_lost_is_looked_up_and_the_write_is_not_made_again(engine, name, monkeypatch):
    looked, tries = note_looks(monkeypatch), []

    def work(connection):
        tries.append(1)
        return put(connection, "a")

    break_next_commit(engine, "after")
    assert control.write(engine, work) == "put a"
    assert looked == [True]
    assert len(tries) == 1
    assert settings(name) == {"a": "v"}


def test_a_lost_commit_of_a_write_that_changed_nothing_is_told(engine, monkeypatch):
    looked = note_looks(monkeypatch)
    break_next_commit(engine, "after")
    with pytest.raises(sa.exc.DBAPIError):
        control.write(engine, lambda connection: connection.scalar(sa.text("SELECT 1")))
    assert looked == []


def test_a_transaction_that_is_not_over_yet_is_waited_for(engine, url):
    sleeping = "SELECT FROM pg_stat_activity WHERE query LIKE '%pg_sleep(0.05)%' AND pid <> pg_backend_pid()"
    with psycopg.connect(url) as other:
        other.execute("INSERT INTO ai_settings VALUES ('a', 'v')")
        row = other.execute("SELECT pg_current_xact_id()::text").fetchone()
        assert row is not None
        answers: list[bool] = []
        looking = threading.Thread(target=lambda: answers.append(control._was_committed(engine, row[0])))
        looking.start()
        while not shared_server().execute(sleeping):
            assert not answers
        other.commit()
        looking.join()
    assert answers == [True]


def note_looks(monkeypatch):
    looked: list[bool] = []
    was_committed = control._was_committed

    def noting(engine, number):
        looked.append(was_committed(engine, number))
        return looked[-1]

    monkeypatch.setattr(control, "_was_committed", noting)
    return looked


def break_next_commit(engine, when):
    """Have the next commit's connection break before it reaches the server, or after, when its answer is lost."""
    plain = engine.dialect.do_commit

    def commit(connection):
        engine.dialect.do_commit = plain
        pid = connection.driver_connection.info.backend_pid
        if when == "before":
            shared_server().execute("SELECT pg_terminate_backend($1)", "postgres", pid)
        plain(connection)
        connection.driver_connection.close()
        raise psycopg.OperationalError("consuming input failed: server closed the connection unexpectedly")

    engine.dialect.do_commit = commit


# Reads.


def test_a_read_cannot_write(engine, name):
    with pytest.raises(sa.exc.DBAPIError, match="read-only transaction"):
        control.read_snapshot(engine, lambda connection: put(connection, "a"))
    assert settings(name) == {}


def test_a_read_sees_one_state_from_its_first_statement_on(engine):
    count = sa.select(sa.func.count()).select_from(ai_settings)

    def look(connection):
        before = connection.scalar(count)
        control.write(engine, lambda other: put(other, "a"))
        return connection.scalar(count) - before

    assert control.read_snapshot(engine, look) == 0
    assert control.read_snapshot(engine, lambda connection: connection.scalar(count)) == 2


def test_a_read_may_take_its_time_between_two_statements_and_a_write_may_not(url):
    def slowly(connection):
        connection.execute(sa.text("SELECT 1"))
        time.sleep(0.4)
        return connection.scalar(sa.text("SELECT 2"))

    engine = control.open_engine(url, limits={"idle_in_transaction_session_timeout": "100ms"})
    try:
        assert control.read_snapshot(engine, slowly) == 2
        with pytest.raises(sa.exc.DBAPIError, match="idle-in-transaction"):
            control.write(engine, slowly)
    finally:
        engine.dispose()


def test_a_connection_that_was_read_with_can_write_afterwards(url):
    engine = sa.create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(url), pool_size=1)
    control.read_snapshot(engine, lambda connection: connection.scalar(sa.text("SELECT 1")))
    assert control.write(engine, lambda connection: put(connection, "a")) == "put a"
    engine.dispose()


def test_connections_that_broke_while_nothing_ran_are_not_met(engine, name):
    control.write(engine, lambda connection: put(connection, "a"))
    for pid in shared_server().backend_pids(name):
        shared_server().execute("SELECT pg_terminate_backend($1)", "postgres", pid)
    assert control.write(engine, lambda connection: put(connection, "b")) == "put b"


# What is told.


@pytest.mark.parametrize(
    ("state", "is_trouble"),
    [
        *((state, True) for state in ("08006", "53100", "53300", "57P01", "57014", "58030", "40001", "XX001")),
        *((state, True) for state in ("25006", "55P03", "25P03")),
        *((state, False) for state in ("23505", "23514", "42P01", "42501", "22021", "P0001", "TH001")),
    ],
)
def test_the_servers_trouble_is_told_from_a_defect_of_ours(engine, state, is_trouble):
    with pytest.raises(sa.exc.DBAPIError) as caught:
        control.read_snapshot(engine, lambda connection: fail(connection, state))
    assert control.is_the_servers_trouble(caught.value) == is_trouble


def test_a_pool_without_a_free_connection_is_the_servers_trouble(url):
    engine = control.open_engine(url, timeout_s=0.05)
    held = [engine.connect() for _ in range(control.CONNECTIONS)]
    with pytest.raises(sa.exc.TimeoutError) as caught:
        control.write(engine, lambda connection: put(connection, "a"))
    assert control.is_the_servers_trouble(caught.value)
    for connection in held:
        connection.close()
    engine.dispose()


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://th:secret@db.example:5432/books", "postgresql://th@db.example:5432/books"),
        ("postgresql://th:se@c:r/e?t@db/books", "postgresql://th@db/books"),
        ("postgresql://th@db/books", "postgresql://th@db/books"),
        ("postgresql://db/books", "postgresql://db/books"),
        (
            "postgresql://a:secret@one:5432,two:5433/books?target_session_attrs=read-write",
            "postgresql://a@one:5432,two:5433/books",
        ),
        ("postgresql://db/books?password=secret&sslmode=require", "postgresql://db/books"),
        ("postgresql:///books?host=/run/postgresql&password=secret", "postgresql:///books"),
    ],
)
def test_a_url_is_shown_without_its_password(url, shown):
    assert control.shown(url) == shown

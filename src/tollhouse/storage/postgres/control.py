"""The control plane's side of PostgreSQL: SQLAlchemy on psycopg, called from threads."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, TypeVar

import msgspec
import psycopg
import sqlalchemy as sa
import structlog
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from tollhouse.errors import StartError, TollhouseError
from tollhouse.storage import migrate
from tollhouse.storage.schema import ai_instances

T = TypeVar("T")

CONNECTIONS = 4
DUTY_CONNECTIONS = 2
CONNECT_TIMEOUT_S = 5

# synchronous_commit: a commit returns after its log was fsync'd, here and on the standbys that the server names as
# synchronous. A client that vanished is found out in half a minute, and its locks are free again.
SETTINGS = {
    "synchronous_commit": "on",
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "4",
    # Locks are held by control-plane work alone between two statements, and only while it computes.
    "idle_in_transaction_session_timeout": "10s",
    # Functions and the control plane count on each statement seeing what was committed before it.
    "default_transaction_isolation": "read committed",
}
# A server that vanished without a word is given up on in a quarter of a minute.
_PATIENCE_OF_A_SOCKET: dict[str, Any] = {
    "connect_timeout": CONNECT_TIMEOUT_S,
    "keepalives_idle": 5,
    "keepalives_interval": 3,
    "keepalives_count": 3,
    "tcp_user_timeout": 15_000,
}
NO_LIMITS: Mapping[str, str] = MappingProxyType({})
_LOOKING_S = 30.0
_WRITE_TRIES = 5
# What a write met another transaction with, or lost a race for a new row to: the same again passes.
_RETRIED = {"40001", "40P01", "55P03", "23505"}
_LIVE = sa.select(sa.func.count()).select_from(ai_instances).where(ai_instances.c.state == "live")
_LOG = structlog.get_logger("tollhouse.storage")


def open_engine(
    url: str, *, connections: int = CONNECTIONS, timeout_s: float = 30.0, limits: Mapping[str, str] = NO_LIMITS
) -> sa.Engine:
    """Return an engine for the control plane's statements, with a bounded pool.

    Args:
        url: the server, and the database on it.
        connections: the most that are open at a time.
        timeout_s: how long to wait for one of them.
        limits: further settings of each session.
    """
    given = conninfo_to_dict(url).get("options") or ""
    settings = " ".join(
        f"-c {name}={value.replace(' ', chr(92) + ' ')}" for name, value in {**SETTINGS, **limits}.items()
    )
    return sa.create_engine(
        "postgresql+psycopg://",
        creator=lambda: psycopg.connect(
            url, options=f"{given} {settings}", application_name="tollhouse-control", **_PATIENCE_OF_A_SOCKET
        ),
        pool_size=connections,
        max_overflow=0,
        pool_timeout=timeout_s,
        pool_pre_ping=True,
        pool_use_lifo=True,
    )


def check_schema(engine: sa.Engine, url: str) -> None:
    """Raise StartError unless the database can be reached and has the very schema of this version.

    An empty one is set up, since nobody can be serving from it; an older one is left to ``tollhouse migrate``.
    """
    with _told_as_start_error(url, "used as a database"):
        with engine.connect() as connection:
            is_empty = migrate.schema_revision(connection) is None
        if is_empty:
            migrate_database(url)
        with engine.connect() as connection:
            problem = migrate.problem_of(connection)
        if problem is not None:
            raise StartError(problem)


@contextmanager
def _told_as_start_error(url: str, what: str) -> Iterator[None]:
    try:
        yield
    except StartError as error:
        told = str(error)
        raise StartError(told if told.startswith(shown(url)) else f"{shown(url)}: {told}") from error
    except sa.exc.DBAPIError as error:
        raise StartError(
            f"{shown(url)}: cannot be {what}: {str(error.orig).strip()}; expected a PostgreSQL server that can be "
            "reached, a database on it, and the right user and password"
        ) from error


def read_snapshot(engine: sa.Engine, work: Callable[[sa.Connection], T]) -> T:
    """Run ``work`` on one consistent snapshot; it cannot change anything."""
    with (
        engine.connect().execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True) as connection,
        connection.begin() as transaction,
    ):
        try:
            # It holds nobody up, and takes as long between two statements as it needs to go through what it read.
            connection.exec_driver_sql("SET LOCAL idle_in_transaction_session_timeout = 0")
            return work(connection)
        finally:
            transaction.rollback()


def write(engine: sa.Engine, work: Callable[[sa.Connection], T]) -> T:
    """Run ``work`` in a transaction, again where it met another one."""
    for attempt in range(1, _WRITE_TRIES + 1):
        try:
            return _write_once(engine, work)
        except sa.exc.DBAPIError as error:
            if attempt == _WRITE_TRIES or getattr(error.orig, "sqlstate", None) not in _RETRIED:
                raise
    raise AssertionError("the last try returns or raises")


def _write_once(engine: sa.Engine, work: Callable[[sa.Connection], T]) -> T:
    with engine.connect() as connection:
        transaction = connection.begin()
        try:
            result = work(connection)
            number = connection.scalar(sa.text("SELECT pg_current_xact_id_if_assigned()::text"))
        except BaseException as error:
            with _quietly_if(connection.invalidated):
                transaction.rollback()
            if not isinstance(error, TollhouseError | sa.exc.SQLAlchemyError):
                _LOG.exception("a write was undone")
            raise
        try:
            transaction.commit()
        except sa.exc.DBAPIError as error:
            # Lost on the way: whether it was committed is on record.
            if number is None or not error.connection_invalidated or not _was_committed(engine, number):
                raise
        return result


@contextmanager
def _quietly_if(is_broken: bool) -> Iterator[None]:
    try:
        yield
    except sa.exc.DBAPIError:
        if not is_broken:
            raise


def _was_committed(engine: sa.Engine, number: str) -> bool:
    """Look up what became of a transaction whose commit was not answered; False where it is not known to be.

    Raises:
        sqlalchemy.exc.DBAPIError: the server cannot be asked; it remains open.
    """
    give_up_s = time.monotonic() + _LOOKING_S
    with engine.connect() as connection:
        while time.monotonic() < give_up_s:
            state = connection.scalar(sa.text("SELECT pg_xact_status(CAST(:number AS xid8))"), {"number": number})
            if state != "in progress":
                return bool(state == "committed")
            connection.execute(sa.text("SELECT pg_sleep(0.05)"))
    return False


def is_the_servers_trouble(error: Exception) -> bool:
    """Whether a failure is for want of the server or its resources; any other is a defect of a statement."""
    if isinstance(error, sa.exc.TimeoutError):
        return True
    assert isinstance(error, sa.exc.DBAPIError)
    state = getattr(error.orig, "sqlstate", None)
    if state is None:
        return isinstance(error, sa.exc.OperationalError | sa.exc.InterfaceError)
    return state[:2] in {"08", "53", "57", "58", "40", "XX"} or state in {"25006", "55P03", "25P03"}


def shown(url: str) -> str:
    """Return a database's URL without its password, for messages."""
    scheme, separator, rest = url.partition("://")
    userinfo, at, place = rest.rpartition("@")
    user = userinfo.partition(":")[0]
    return f"{scheme}{separator}{user}{at}{place.partition('?')[0]}"


def migrate_database(url: str, service_role: str | None = None) -> str | None:
    """Bring a database to the newest schema and functions; return the revision it was at, or None if it was empty.

    Args:
        url: connects as the schema's owner.
        service_role: a role to be given what a service needs, and no more: it can add to the ledger, not change it.

    Raises:
        StartError: the server cannot be reached, or the database is another program's or a newer version's.
    """
    engine = open_engine(url)
    try:
        with _told_as_start_error(url, "migrated"), engine.begin() as connection:
            before = migrate.migrate_cluster(connection)
            if service_role is not None:
                _grant(connection, service_role)
            return before
    finally:
        engine.dispose()


class ServerState(msgspec.Struct, frozen=True):
    """What an operator should know of a server before it serves.

    Attributes:
        revision: the database's schema, or None when it is empty.
        problem: why an instance would refuse to serve from it, or None.
        may_change_ledger: whether the role could change or delete rows of the ledger.
        live_instances: how many instances are known as live.
        free_connections: how many more the server would take.
    """

    version: str
    revision: str | None
    problem: str | None
    may_change_ledger: bool
    live_instances: int
    free_connections: int
    is_durable: bool


_RIGHTS = """
SELECT rolsuper
    OR pg_has_role(current_user, (SELECT relowner FROM pg_class WHERE oid = 'ai_usage_log'::regclass), 'MEMBER')
    OR has_table_privilege('ai_usage_log', 'UPDATE') OR has_table_privilege('ai_usage_log', 'DELETE')
    OR has_table_privilege('ai_usage_log', 'TRUNCATE') FROM pg_roles WHERE rolname = current_user"""
_FREE = """
SELECT current_setting('max_connections')::int - count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"""
_DURABLE = "SELECT current_setting('fsync') = 'on' AND current_setting('full_page_writes') = 'on'"


def examine(url: str) -> ServerState:
    """Look at a server and a database on it; changes nothing. Raises StartError when it cannot be reached."""
    engine = open_engine(url)
    try:
        with _told_as_start_error(url, "used as a database"), engine.connect() as connection:
            revision = migrate.schema_revision(connection)
            is_current = revision is not None and (problem := migrate.problem_of(connection)) is None
            return ServerState(
                version=str(connection.scalar(sa.text("SHOW server_version"))),
                revision=revision,
                problem=None if revision is None or is_current else problem,
                may_change_ledger=is_current and bool(connection.scalar(sa.text(_RIGHTS))),
                live_instances=int(connection.scalar(_LIVE) or 0) if is_current else 0,
                free_connections=int(connection.scalar(sa.text(_FREE)) or 0),
                is_durable=bool(connection.scalar(sa.text(_DURABLE))),
            )
    finally:
        engine.dispose()


# The ledger, its months and its archives: rights on a table are not those on its partitions.
_LEDGER_TABLES = """
SELECT relname FROM pg_class WHERE relnamespace = current_schema()::regnamespace AND relkind IN ('r', 'p')
   AND starts_with(relname, 'ai_usage_log') ORDER BY relname"""


def _grant(connection: sa.Connection, role: str) -> None:
    driver = connection.connection.driver_connection
    assert driver is not None
    schema = str(connection.scalar(sa.text("SELECT current_schema()")))
    append_only = ["ai_audit_log", "ai_guardrail_findings", *connection.scalars(sa.text(_LEDGER_TABLES))]
    for statement in (
        "GRANT USAGE ON SCHEMA {schema} TO {role}",
        "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO {role}",
        "REVOKE UPDATE, DELETE, TRUNCATE ON {append_only} FROM {role}",
        "REVOKE INSERT, UPDATE, DELETE ON alembic_version, ai_ledger_archives FROM {role}",
        "GRANT EXECUTE ON FUNCTION ai_open_month(text) TO {role}",
        "GRANT USAGE ON ALL SEQUENCES IN SCHEMA {schema} TO {role}",
    ):
        names = {"schema": sql.Identifier(schema), "role": sql.Identifier(role)}
        tables = sql.SQL(", ").join(map(sql.Identifier, append_only))
        driver.execute(sql.SQL(statement).format(append_only=tables, **names))

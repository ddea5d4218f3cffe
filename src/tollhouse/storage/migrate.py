"""Brings a database to this version's schema, or says why it cannot."""

import hashlib
from importlib.resources import files
from typing import TYPE_CHECKING

import sqlalchemy as sa

from tollhouse.errors import StartError
from tollhouse.storage.schema import REVISION, ai_settings

if TYPE_CHECKING:
    from alembic.config import Config

_FUNCTIONS = "functions_digest"
_FUNCTIONS_DIGEST = sa.select(ai_settings.c.value).where(ai_settings.c.name == _FUNCTIONS)


def schema_revision(connection: sa.Connection) -> str | None:
    """Return the revision a database is at; None when it is empty.

    Raises:
        StartError: the database holds tables, but they are not Tollhouse's.
    """
    tables = sa.inspect(connection).get_table_names()
    if not tables:
        return None
    if "alembic_version" not in tables or (len(tables) > 1 and "ai_usage_log" not in tables):
        raise StartError(
            "the database holds tables of another program "
            f"({', '.join(sorted(tables)[:3])}, …): expected an empty database or one of Tollhouse's"
        )
    revision = connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()
    return None if revision is None else str(revision)


def is_current(connection: sa.Connection) -> bool:
    """Return whether a database has the newest schema, without touching it; an empty or older one can be upgraded.

    Raises:
        StartError: the database was made by a newer Tollhouse, or is not Tollhouse's.
    """
    current = schema_revision(connection)
    if current in (None, REVISION):
        return current == REVISION
    from alembic.script import ScriptDirectory

    known = {script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()}
    if current not in known:
        raise StartError(
            f"the database is at schema {current}, which this Tollhouse (schema {REVISION}) does not know: "
            "it was used by a newer version. Start that version, or restore a backup from before its upgrade"
        )
    return False


def problem_of(connection: sa.Connection) -> str | None:
    """Return why an instance cannot serve from a database of several instances, or None when it can.

    It never migrates by itself: others may be serving from it.

    Raises:
        StartError: the database was made by a newer Tollhouse, or is not Tollhouse's.
    """
    if is_current(connection):
        digest = connection.scalar(_FUNCTIONS_DIGEST)
        if digest == functions_digest():
            return None
        return "its functions are another version's; `tollhouse migrate` brings it up to date"
    revision = schema_revision(connection)
    found = "it is empty" if revision is None else f"it is at schema {revision}"
    return f"{found}; expected schema {REVISION}, which `tollhouse migrate` brings it to"


# A function that takes other arguments than it did stands beside what it was, which nobody calls any more.
_DROP_SUPERSEDED = """
DO $$
DECLARE
    superseded regprocedure;
BEGIN
    FOR superseded IN
        SELECT older.oid FROM pg_proc older JOIN pg_proc newer USING (pronamespace, proname)
         WHERE older.pronamespace = current_schema()::regnamespace
           AND starts_with(older.proname, 'ai_') AND older.oid < newer.oid
    LOOP
        EXECUTE 'DROP FUNCTION ' || superseded;
    END LOOP;
END $$"""


def migrate_cluster(connection: sa.Connection) -> str | None:
    """Bring a PostgreSQL database to the newest schema and functions, within the caller's transaction.

    One migration runs at a time; the others wait for it and find nothing to do. Returns the revision the database was
    at, or None if it was empty.
    """
    # It loads Alembic in between, which takes a busy machine its time.
    connection.execute(sa.text("SET LOCAL idle_in_transaction_session_timeout = 0"))
    connection.execute(sa.text("SELECT pg_advisory_xact_lock(hashtextextended('tollhouse migrate', 0))"))
    before = schema_revision(connection)
    if not is_current(connection):
        run_migrations(connection)
    if connection.scalar(_FUNCTIONS_DIGEST) != functions_digest():
        for statement in _functions():
            connection.execution_options(no_parameters=True).exec_driver_sql(statement)
        connection.exec_driver_sql(_DROP_SUPERSEDED)
        _guard_definer(connection)
        connection.execute(sa.delete(ai_settings).where(ai_settings.c.name == _FUNCTIONS))
        connection.execute(sa.insert(ai_settings).values(name=_FUNCTIONS, value=functions_digest()))
    return before


def _guard_definer(connection: sa.Connection) -> None:
    """Bind the function that runs with its owner's rights to this schema, and to those who are granted it."""
    schema = connection.scalar(sa.text("SELECT quote_ident(current_schema())"))
    for statement in (
        f"ALTER FUNCTION ai_open_month(text) SET search_path = {schema}, pg_temp",
        "REVOKE EXECUTE ON FUNCTION ai_open_month(text) FROM PUBLIC",
    ):
        connection.exec_driver_sql(statement)


def functions_digest() -> str:
    """Return a digest of the functions that this version calls."""
    return hashlib.sha256("\0".join(_functions()).encode()).hexdigest()


def _functions() -> list[str]:
    """Return the statements that make the functions of the hot path, each of which replaces what was before it."""
    folder = files("tollhouse.storage") / "functions"
    return [file.read_text() for file in sorted(folder.iterdir(), key=lambda file: file.name)]


def upgrade(connection: sa.Connection) -> None:
    """Bring an empty or older SQLite database to the newest schema, within the caller's transaction.

    An empty one is made at once, from what the migrations come to: a service that never migrated holds no Alembic.
    """
    if schema_revision(connection) is not None:
        run_migrations(connection)
        return
    for statement in (files("tollhouse.storage") / "new_database.sql").read_text().split(";\n\n"):
        connection.exec_driver_sql(statement)


def run_migrations(connection: sa.Connection) -> None:
    """Migrate a database of whatever age to the newest schema, within the caller's transaction."""
    from alembic import command

    config = _config()
    config.attributes["connection"] = connection
    command.upgrade(config, REVISION)


def _config() -> "Config":
    # Imported where it is used: it takes half a second and ten megabytes.
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(files("tollhouse.storage") / "migrations"))
    return config

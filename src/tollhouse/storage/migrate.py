"""Brings a database to this version's schema, or says why it cannot."""

from importlib.resources import files
from typing import TYPE_CHECKING

import sqlalchemy as sa

from tollhouse.errors import StartError
from tollhouse.storage.schema import REVISION

if TYPE_CHECKING:
    from alembic.config import Config


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

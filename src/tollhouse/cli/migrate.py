"""``tollhouse migrate``: bringing the database to this version's schema, ahead of a start."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from tollhouse.cli.options import Command, Options

if TYPE_CHECKING:
    from tollhouse.config import Database


@click.command(cls=Command)
@click.option("--service-role", help="On PostgreSQL: the role that the service connects as, which is given its rights.")
@click.pass_obj
def migrate(options: Options, service_role: str | None) -> None:
    """Bring the database to this version's schema.

    On SQLite `serve` does so by itself; this is for doing it ahead, with the service stopped and a backup made. On
    PostgreSQL nothing else does it: run it once before instances of a new version start, as the schema's owner.
    """
    from tollhouse.cli.output import print_json
    from tollhouse.storage.schema import REVISION
    from tollhouse.telemetry.logs import configure_logs

    configure_logs(as_json=False, level="warning")
    database = options.config().database
    if database.is_embedded:
        if service_role is not None:
            raise click.UsageError("--service-role is for PostgreSQL: an embedded database has no roles")
        name, before = str(database.sqlite_path), _migrate_file(database.sqlite_path)
    else:
        name, before = _migrate_server(database, service_role)
    if options.as_json:
        print_json({"database": name, "revision_before": before, "revision": REVISION})
    elif before == REVISION:
        click.echo(f"{name} is at schema {REVISION}, the newest this version knows: nothing to do")
    elif before is None:
        click.echo(f"{name} was created, at schema {REVISION}")
    else:
        click.echo(f"{name} was migrated from schema {before} to {REVISION}")


def _migrate_server(database: "Database", service_role: str | None) -> tuple[str, str | None]:
    """Migrate a PostgreSQL database; return its name, and the revision it was at."""
    from tollhouse.storage.postgres.control import migrate_database, shown

    return shown(database.url), migrate_database(database.url, service_role)


def _migrate_file(path: Path) -> str | None:
    """Migrate a file; return the revision it was at."""
    import asyncio

    from tollhouse.cli.database_file import revision_of
    from tollhouse.cli.session import outlast_commands
    from tollhouse.storage.schema import REVISION

    # A database that is up to date is left alone, so that a server may be running from it.
    before = revision_of(path)
    if before != REVISION:
        before = outlast_commands(lambda: asyncio.run(_migrate(path)))
    return before


async def _migrate(path: Path) -> str | None:
    """Migrate, and return the revision the database was at; None when it was empty or missing."""
    from tollhouse.cli.database_file import revision_of
    from tollhouse.storage.lock import DatabaseLock
    from tollhouse.storage.sqlite import SqliteDatabase

    with DatabaseLock(path):
        before = revision_of(path)
        database = SqliteDatabase(path)
        try:
            database.open()
        finally:
            await database.close()
    return before

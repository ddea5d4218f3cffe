"""``tollhouse migrate``: bringing the database to this version's schema, ahead of a start."""

from pathlib import Path

import click

from tollhouse.cli.options import Command, Options


@click.command(cls=Command)
@click.pass_obj
def migrate(options: Options) -> None:
    """Bring the database to this version's schema.

    `serve` does so by itself; this is for doing it ahead, with the service stopped and a backup made.
    """
    import asyncio

    from tollhouse.cli.database_file import revision_of
    from tollhouse.cli.output import print_json
    from tollhouse.cli.session import outlast_commands
    from tollhouse.storage.schema import REVISION
    from tollhouse.telemetry.logs import configure_logs

    configure_logs(as_json=False, level="warning")
    path = options.config().database.sqlite_path
    # A database that is up to date is left alone, so that a server may be running from it.
    before = revision_of(path)
    if before != REVISION:
        before = outlast_commands(lambda: asyncio.run(_migrate(path)))
    if options.as_json:
        print_json({"database": str(path), "revision_before": before, "revision": REVISION})
    elif before == REVISION:
        click.echo(f"{path} is at schema {REVISION}, the newest this version knows: nothing to do")
    elif before is None:
        click.echo(f"{path} was created, at schema {REVISION}")
    else:
        click.echo(f"{path} was migrated from schema {before} to {REVISION}")


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

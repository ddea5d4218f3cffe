"""What a PostgreSQL server has to provide: its reach, the schema, the role's rights, and room for connections."""

from collections.abc import Iterator

from tollhouse.cli.doctor.finding import Finding, failed, ok, warning
from tollhouse.config import Database, Secrets
from tollhouse.errors import StartError
from tollhouse.storage.postgres.control import CONNECTIONS, DUTY_CONNECTIONS, examine, shown
from tollhouse.storage.schema import REVISION

# The hot path's two lanes, and the one for being seen by the other instances.
_CONNECTIONS_OF_AN_INSTANCE = CONNECTIONS + DUTY_CONNECTIONS + 3


def examine_server(database: Database) -> Iterator[Finding]:
    """Look at the server, the database on it, and what the role may do there."""
    try:
        state = examine(database.url)
    except StartError as error:
        yield failed(
            "database",
            str(error),
            "look at [database] url and the server; a database of a newer version needs that version",
        )
        return
    name = shown(database.url)
    if state.problem is not None:
        yield failed("database", f"{name}: {state.problem}", "run `tollhouse migrate` as the schema's owner")
    elif state.revision is None:
        yield ok("database", f"{name} (PostgreSQL {state.version}) is empty; the first start sets it up")
    else:
        yield ok("database", f"{name} (PostgreSQL {state.version}) is at schema {REVISION}")
        yield ok("instances", f"{state.live_instances} are known as live")
    if state.may_change_ledger:
        advice = "give the service a role of its own: `tollhouse migrate --service-role NAME` grants what it needs"
        yield warning("ledger", "this role owns the ledger: it could give itself the right to change rows", advice)
    if not state.is_durable:
        yield failed("durability", "fsync or full_page_writes is off", "switch both on: a crash would lose commits")
    if state.free_connections < _CONNECTIONS_OF_AN_INSTANCE:
        found = f"{state.free_connections} are free, an instance takes {_CONNECTIONS_OF_AN_INSTANCE}"
        yield warning("connections", found, "raise max_connections of the server")
    else:
        yield ok("connections", f"{state.free_connections} are free, an instance takes {_CONNECTIONS_OF_AN_INSTANCE}")


def examine_stored_pepper(secrets: Secrets | None) -> Finding:
    """Say where the secret is that service keys are hashed with."""
    if secrets is not None and secrets.pepper is not None:
        return ok("pepper", "comes from [auth] pepper")
    return ok("pepper", "is kept in the database, for all instances alike")

"""What this machine has to provide: the database's files, and enough open files."""

import os
import resource
from collections.abc import Iterator
from pathlib import Path

from tollhouse.cli.database_file import read_file, revision_of
from tollhouse.cli.doctor.finding import Finding, failed, ok, warning
from tollhouse.cli.doctor.instance import Instance, examine_instance
from tollhouse.config import Config, Secrets
from tollhouse.errors import StartError
from tollhouse.keys import store as keys
from tollhouse.keys.pepper import pepper_path, read_pepper
from tollhouse.storage.lock import DatabaseInUse, DatabaseLock
from tollhouse.storage.schema import REVISION

# Beside its callers' and its providers' connections: the database, logs, and what Python itself holds open.
_FILES_BESIDE_SOCKETS = 64


def examine_database(path: Path) -> Iterator[Finding]:
    """Look at the database file: whether it can be written, its schema, and who owns it."""
    if not path.parent.is_dir():
        yield failed("database", f"{path.parent}: no such directory", "create it, or change [database] url")
        return
    if not path.exists():
        if os.access(path.parent, os.W_OK):
            yield ok("database", f"{path} does not exist yet; the first start creates it")
        else:
            yield failed("database", f"{path.parent}: cannot be written", "let this user write to the directory")
        return
    # SQLite makes its log beside the file, so the directory has to be writable too.
    closed = [str(place) for place in (path, path.parent) if not os.access(place, os.W_OK)]
    if closed:
        yield failed("database", f"{' and '.join(closed)}: cannot be written", "let this user write to both")
        return
    yield _examine_schema(path)
    yield from _examine_owner(path)


def _examine_schema(path: Path) -> Finding:
    try:
        revision = revision_of(path)
    except StartError as error:
        return failed("database", str(error), "restore a backup, or name another file in [database] url")
    if revision == REVISION:
        return ok("database", f"{path} can be written, and is at schema {revision}")
    if revision is None:
        return ok("database", f"{path} is empty; the first start sets it up")
    return warning(
        "database",
        f"{path} is at schema {revision}, this version's is {REVISION}",
        "`tollhouse migrate` brings an older one up to date; one that is newer needs the newer Tollhouse",
    )


def _examine_owner(path: Path) -> Iterator[Finding]:
    try:
        with DatabaseLock(path):
            yield ok("owner", "no process is using the database")
    except DatabaseInUse as error:
        if error.owner is not None and error.owner.url:
            yield ok("owner", f"process {error.owner.pid} serves from the database, at {error.owner.url}")
            owner = error.owner
            yield from examine_instance(
                Instance(owner.commands_url or owner.url, owner.operator_token), has_to_run=True
            )
        else:
            yield ok("owner", "another command is using the database at this moment")
    except StartError as error:
        yield failed("owner", str(error), "let this user write to the file")


def examine_pepper(path: Path, secrets: Secrets | None) -> Finding:
    """Look at the secret that service keys are hashed with.

    Args:
        path: the database file.
        secrets: None when they could not be resolved.
    """
    if secrets is None:
        return warning("pepper", "not looked at, since secrets are missing", "see above")
    if secrets.pepper is not None:
        return ok("pepper", "comes from [auth] pepper")
    file = pepper_path(path)
    try:
        has_keys = revision_of(path) == REVISION and read_file(path, keys.pepper_fingerprint) is not None
        is_there = read_pepper(file) is not None
    except StartError as error:
        return failed("pepper", str(error), "restore it from a backup: it belongs to the database")
    if is_there:
        return ok("pepper", f"is kept in {file}: back it up with the database, apart from it")
    if has_keys:
        return failed("pepper", f"{file} is missing, so no service key is known", "restore it from a backup")
    return ok("pepper", f"the first start makes one, and keeps it in {file}")


def examine_open_files(config: Config) -> Finding:
    """Look at how many files and sockets this user's processes may have open."""
    needed = config.server.max_connections + _FILES_BESIDE_SOCKETS
    needed += sum(provider.max_connections for provider in config.providers.values())
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most in {resource.RLIM_INFINITY, -1} or most >= needed:
        return ok("open files", f"{needed} may be needed at once, and are allowed")
    return warning(
        "open files",
        f"{needed} may be needed at once, but {most} are allowed",
        "raise the limit (`ulimit -Hn`, LimitNOFILE= in systemd), or lower [server] max_connections",
    )

import os
import signal
import subprocess
import sys

import pytest

from tollhouse.errors import StartError
from tollhouse.storage.lock import DatabaseInUse, DatabaseLock, Owner


@pytest.fixture
def database(tmp_path):
    return tmp_path / "tollhouse.db"


def refused(database):
    """Try to take a lock that is held, as another process would: through a file of its own."""
    with pytest.raises(DatabaseInUse) as caught:
        DatabaseLock(database).acquire()
    return caught.value


def test_a_database_has_one_owner_at_a_time(database):
    with DatabaseLock(database):
        error = refused(database)
        assert error.owner == Owner(pid=os.getpid())
        assert f"in use by process {os.getpid()}; it can have one owner" in str(error)
    with DatabaseLock(database):
        pass


def test_others_learn_where_the_owner_serves(database):
    owner = Owner(pid=7, url="http://127.0.0.1:8080", operator_token="th_token")
    with DatabaseLock(database) as lock:
        lock.describe(owner)
        error = refused(database)
        assert error.owner == owner
        assert "serving at http://127.0.0.1:8080" in str(error)
        assert "th_token" not in str(error)


def test_a_shorter_description_replaces_a_longer_one(database):
    with DatabaseLock(database) as lock:
        lock.describe(Owner(pid=1, url="http://[::1]:8080", operator_token="t" * 50))
        lock.describe(Owner(pid=2))
        assert refused(database).owner == Owner(pid=2)


def test_the_operators_token_can_be_read_by_this_user_alone_and_is_gone_with_the_lock(database):
    lock_file = database.with_name("tollhouse.db.lock")
    with DatabaseLock(database) as lock:
        lock.describe(Owner(pid=7, operator_token="th_token"))
        assert lock_file.stat().st_mode & 0o777 == 0o600
    assert lock_file.read_bytes() == b""


@pytest.mark.parametrize("left_by_owner", [b"", b"{", b'{"pid": "seven"}', b"\xff"])
def test_an_owner_that_has_not_said_who_it_is_still_keeps_others_out(database, left_by_owner):
    with DatabaseLock(database):
        database.with_name("tollhouse.db.lock").write_bytes(left_by_owner)
        error = refused(database)
        assert error.owner is None
        assert "in use by another process" in str(error)


def test_the_lock_of_a_process_that_was_killed_is_free(database):
    code = (
        "import pathlib, sys; from tollhouse.storage.lock import DatabaseLock\n"
        "DatabaseLock(pathlib.Path(sys.argv[1])).acquire(); print('held', flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-c", code, str(database)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        assert refused(database).owner == Owner(pid=holder.pid)
        holder.send_signal(signal.SIGKILL)
        holder.wait(20)
    with DatabaseLock(database):
        pass


def test_a_lock_file_that_cannot_be_made_stops_the_start(tmp_path):
    with pytest.raises(StartError, match="cannot be created: No such file or directory"):
        DatabaseLock(tmp_path / "nowhere" / "tollhouse.db").acquire()


def test_releasing_twice_does_no_harm(database):
    lock = DatabaseLock(database)
    lock.acquire()
    lock.release()
    lock.release()

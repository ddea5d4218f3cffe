import pytest

from tollhouse.errors import StartError
from tollhouse.keys.pepper import create_pepper, pepper_path, read_pepper


@pytest.fixture
def path(tmp_path):
    return pepper_path(tmp_path / "tollhouse.db")


def test_a_pepper_is_kept_beside_its_database_for_this_user_alone(path):
    pepper = create_pepper(path)
    assert len(pepper) == 32
    assert read_pepper(path) == pepper
    assert path.name == "tollhouse.db.pepper"
    assert path.stat().st_mode & 0o777 == 0o600


def test_there_is_none_before_the_first_start(path):
    assert read_pepper(path) is None


def test_peppers_are_never_the_same(tmp_path):
    assert create_pepper(tmp_path / "a") != create_pepper(tmp_path / "b")


def test_a_pepper_is_never_written_over(path):
    pepper = create_pepper(path)
    with pytest.raises(StartError, match="cannot be written: File exists"):
        create_pepper(path)
    assert read_pepper(path) == pepper


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    with pytest.raises(StartError, match="cannot be written: No such file or directory"):
        create_pepper(tmp_path / "nowhere" / "pepper")


@pytest.mark.parametrize(
    "content", [b"", b"not hex", b"00" * 31, b"00" * 33, b"\xff" * 64], ids=["empty", "text", "short", "long", "bytes"]
)
def test_a_file_that_holds_no_pepper_stops_the_start(path, content):
    path.write_bytes(content)
    with pytest.raises(StartError, match="32 bytes in hex"):
        read_pepper(path)


def test_a_folder_in_its_place_stops_the_start(path):
    path.mkdir()
    with pytest.raises(StartError, match="cannot be read as a pepper"):
        read_pepper(path)

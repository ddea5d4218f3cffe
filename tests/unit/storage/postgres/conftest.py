import pytest

from harness.engines import database_name, migrated
from harness.postgres import fresh_database


@pytest.fixture
def url():
    """The URL of a new database with the newest schema."""
    with fresh_database(migrated) as url:
        yield url


@pytest.fixture
def name(url):
    return database_name(url)


@pytest.fixture
def empty_url():
    """The URL of a new database without tables."""
    with fresh_database() as url:
        yield url

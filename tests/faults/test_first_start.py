"""Instances that find a new database at the same moment: one of them makes the pepper, and all start with it."""

import asyncio

import pytest

from harness.books import Books, run_on_books
from tollhouse.keys.pepper import StoredPepper
from tollhouse.keys.service import Keyring, open_keyring

pytestmark = pytest.mark.engine("postgresql")


class OvertakenPepper(StoredPepper):
    """Another instance makes the pepper right after this one has found that there is none."""

    def __init__(self, books: Books) -> None:
        super().__init__(books.database)
        self._books = books
        self.other: Keyring | None = None

    async def read(self) -> bytes | None:
        found = await super().read()
        if self.other is None:
            assert found is None
            self.other = await open_keyring(self._books.database, None, StoredPepper(self._books.database))
        return found


def test_an_instance_that_is_overtaken_at_its_first_start_takes_the_others_pepper(on_each_engine, tmp_path):
    async def scenario(books: Books) -> None:
        kept = OvertakenPepper(books)
        mine = await open_keyring(books.database, None, kept)
        assert kept.other is not None
        assert mine.digest("a key") == kept.other.digest("a key")

    run_on_books(tmp_path, scenario)


def test_of_many_that_start_at_once_all_start_with_one_pepper(on_each_engine, tmp_path):
    async def scenario(books: Books) -> None:
        opened = await asyncio.gather(
            *(open_keyring(books.database, None, StoredPepper(books.database)) for _ in range(20))
        )
        assert len({keyring.digest("a key") for keyring in opened}) == 1

    run_on_books(tmp_path, scenario)

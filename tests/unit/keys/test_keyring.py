import asyncio

import pytest

from harness import engines
from harness.books import open_books, run_on_books
from tollhouse.errors import StartError, Unauthorized
from tollhouse.keys import service, store
from tollhouse.keys.model import Principal, ServiceKey
from tollhouse.keys.pepper import FilePepper, create_pepper
from tollhouse.keys.service import Keyring, new_api_key, open_keyring

NOW = "2026-04-10T12:00:00.000Z"
PEPPER = b"p" * 32


def service_key(keyring, api_key, key_id="key_1", **changes):
    fields = {
        "key_id": key_id,
        "service": "shop",
        "role": "service",
        "tenants": ("42", "43"),
        "feature_slug": "",
        "digest": keyring.digest(api_key).hex(),
        "created_at": NOW,
        "revoked_at": None,
    }
    return ServiceKey(**fields | changes)


async def added(books, key):
    await books.database.write(lambda connection: store.add(connection, key))
    return key


def test_a_key_on_record_is_known_after_a_restart_and_a_revoked_one_is_not(tmp_path):
    async def scenario(books):
        maker = Keyring(books.database, PEPPER)
        mine, revoked = new_api_key(), new_api_key()
        key = await added(books, service_key(maker, mine))
        await added(books, service_key(maker, revoked, "key_2", revoked_at=NOW))
        keyring = Keyring(books.database, PEPPER)
        await keyring.load()
        assert keyring.identify(mine) == key.principal()
        with pytest.raises(Unauthorized, match="unknown or revoked"):
            keyring.identify(revoked)

    run_on_books(tmp_path, scenario)


def test_a_key_is_out_with_the_next_call_after_it_was_revoked_even_if_it_called_before(tmp_path):
    async def scenario(books):
        keyring = Keyring(books.database, PEPPER)
        mine, other = new_api_key(), new_api_key()
        key = service_key(keyring, mine)
        keyring.accept(key)
        keyring.accept(service_key(keyring, other, "key_2"))
        for _ in range(2):
            assert keyring.identify(mine).key_id == "key_1"
        keyring.refuse(key)
        for _ in range(2):
            with pytest.raises(Unauthorized):
                keyring.identify(mine)
        assert keyring.identify(other).key_id == "key_2"
        keyring.refuse(key)

    run_on_books(tmp_path, scenario)


@pytest.mark.parametrize("wrong", ["", "th_", "th_x", "\xff", "th_secret ", "TH_SECRET"])
def test_a_wrong_key_is_unauthorized_and_not_shown(tmp_path, wrong):
    async def scenario(books):
        keyring = Keyring(books.database, PEPPER)
        keyring.accept(service_key(keyring, "th_secret"))
        with pytest.raises(Unauthorized) as caught:
            keyring.identify(wrong)
        assert not wrong or wrong not in caught.value.message

    run_on_books(tmp_path, scenario)


def test_a_trusted_key_is_known_without_being_on_record(tmp_path):
    async def scenario(books):
        keyring = Keyring(books.database, PEPPER)
        admin = Principal("admin", "admin", "super-admin", None)
        keyring.trust("the configured admin key", admin)
        assert keyring.identify("the configured admin key") == admin
        assert await books.database.read(store.everything) == []

    run_on_books(tmp_path, scenario)


def test_a_key_that_shares_a_part_of_its_digest_is_compared_as_a_whole(tmp_path):
    async def scenario(books):
        keyring = Keyring(books.database, PEPPER)
        forged = bytearray(keyring.digest("th_wrong"))
        forged[-1] ^= 1
        keyring.accept(service_key(keyring, "th_wrong", digest=bytes(forged).hex()))
        with pytest.raises(Unauthorized):
            keyring.identify("th_wrong")

    run_on_books(tmp_path, scenario)


def test_only_so_many_callers_are_recognised_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(service, "_MAX_RECOGNISED", 3)

    async def scenario(books):
        keyring = Keyring(books.database, PEPPER)
        keys = [new_api_key() for _ in range(10)]
        for number, api_key in enumerate(keys):
            keyring.accept(service_key(keyring, api_key, f"key_{number}"))
        for _ in range(2):
            assert [keyring.identify(api_key).key_id for api_key in keys] == [f"key_{n}" for n in range(10)]
            assert len(keyring._recognised) <= 3

    run_on_books(tmp_path, scenario)


def test_keys_are_long_random_and_safe_in_headers():
    keys = {new_api_key() for _ in range(1000)}
    assert len(keys) == 1000
    assert all(key.startswith("th_") and len(key) >= 3 + 43 and key.isascii() and key.isprintable() for key in keys)


def test_a_key_is_stored_as_a_digest_that_depends_on_the_pepper(tmp_path):
    async def scenario(books):
        digest = Keyring(books.database, PEPPER).digest("th_secret")
        assert len(digest) == 32
        assert Keyring(books.database, b"q" * 32).digest("th_secret") != digest

    run_on_books(tmp_path, scenario)


def test_keys_come_back_as_they_were_stored(tmp_path):
    async def scenario(books):
        keyring = Keyring(books.database, PEPPER)
        stored = [
            await added(books, service_key(keyring, f"th_{number}", f"key_{number}", tenants=tenants, role=role))
            for number, (tenants, role) in enumerate(
                [(None, "super-admin"), ((), "service"), (("Zürich", "42"), "reader")]
            )
        ]
        assert await books.database.read(store.everything) == stored
        assert await books.database.read(lambda connection: store.find(connection, "key_2")) == stored[2]
        assert await books.database.read(lambda connection: store.find(connection, "key_9")) is None
        await books.database.write(lambda connection: store.revoke(connection, "key_2", NOW))
        found = await books.database.read(lambda connection: store.find(connection, "key_2"))
        assert found.revoked_at == NOW

    run_on_books(tmp_path, scenario)


def test_a_first_start_makes_a_pepper_and_later_ones_use_it(tmp_path):
    path = tmp_path / "pepper"
    pepper = FilePepper(path)

    async def main():
        for _ in range(2):
            async with open_books(tmp_path / "db") as books:
                keyring = await open_keyring(books.database, None, pepper)
                digest = keyring.digest("th_secret")
        async with open_books(tmp_path / "db") as books:
            kept = bytes.fromhex(path.read_text().strip())
            assert (await open_keyring(books.database, kept, pepper)).digest("th_secret") == digest

    asyncio.run(main())


def test_another_pepper_or_none_stops_the_start_rather_than_shutting_every_caller_out(tmp_path):
    path = tmp_path / "pepper"
    pepper = FilePepper(path)

    async def scenario(books):
        await open_keyring(books.database, None, pepper)
        with pytest.raises(StartError, match="the pepper is not the one"):
            await open_keyring(books.database, b"another" * 4, pepper)
        path.unlink()
        with pytest.raises(StartError, match="is missing, so no service key of this database would be known"):
            await open_keyring(books.database, None, pepper)
        assert not path.exists()
        create_pepper(path)
        with pytest.raises(StartError, match="the pepper is not the one"):
            await open_keyring(books.database, None, pepper)

    run_on_books(tmp_path, scenario)


def test_the_database_holds_neither_a_key_nor_the_pepper(tmp_path):
    api_key = new_api_key()

    async def main():
        async with open_books(tmp_path / "db") as books:
            keyring = await open_keyring(books.database, PEPPER, FilePepper(tmp_path / "pepper"))
            await added(books, service_key(keyring, api_key))
            await books.database.read(store.everything)

    asyncio.run(main())
    stored = engines.stored_bytes(tmp_path / "db")
    assert b"key_1" in stored
    for secret in (api_key.encode(), PEPPER, PEPPER.hex().encode()):
        assert secret not in stored

import asyncio
import socket
import threading
from ipaddress import ip_address, ip_network

import pytest

from tollhouse.providers.address import Address
from tollhouse.webhooks import destination
from tollhouse.webhooks.destination import Refused, is_public, parse_destination, pinned, refuse_at_once

LOOPBACK = [ip_network("127.0.0.0/8")]


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "127.1.2.3",
        "0.0.0.0",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "192.0.2.1",
        "198.18.0.1",
        "224.0.0.1",
        "240.0.0.1",
        "255.255.255.255",
        "::",
        "::1",
        "fe80::1",
        "fc00::1",
        "fd12:3456::1",
        "ff02::1",
        "2001:db8::1",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "64:ff9b:1::a00:1",
        "2002:7f00:1::1",
        "2002:a9fe:a9fe::1",
    ],
)
def test_an_address_of_a_network_of_its_own_is_not_public(address):
    assert not is_public(ip_address(address))


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "93.184.216.34", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"]
)
def test_an_address_of_the_internet_is_public(address):
    assert is_public(ip_address(address))


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("ftp://example.com/", "its scheme is not http or https"),
        ("https:///path", "the URL must look like"),
        ("https://user:password@example.com/", "the URL must not contain a user or password"),
        ("https://example.com/#part", "must not contain a fragment"),
        ("https://exa mple.com/", "without spaces"),
        ("https://example.com/\r\nx: y", "without spaces"),
        ("https://example.com:70000/", "host or port is malformed"),
        ("https://example.com/" + "x" * 2048, "at most 2048 characters"),
        ("", "the URL must look like"),
    ],
)
def test_what_is_no_url_is_refused(url, message):
    with pytest.raises(ValueError, match=message) as refusal:
        parse_destination(url)
    assert "base_url" not in str(refusal.value)


def test_a_url_is_taken_apart():
    found = parse_destination("https://hooks.example.com:8443/a/?b=c&d")
    assert (found.address, found.target) == (Address("https", "hooks.example.com", 8443), "/a/?b=c&d")
    assert parse_destination("https://hooks.example.com").target == "/"
    assert parse_destination("https://hooks.example.com?x").target == "/?x"


def pin(monkeypatch, addresses, *, scheme="https", allowed=()):
    """Return where a name may lead that resolves to some addresses."""

    async def main():
        async def look_up(host, port):
            return [(0, 0, 0, "", (each, port)) for each in addresses]

        monkeypatch.setattr(destination, "look_up", look_up)
        return [str(each) for each in await pinned(Address(scheme, "hooks.example.com", 443), allowed)]

    return asyncio.run(main())


def test_a_name_that_leads_inside_is_refused(monkeypatch):
    for addresses in (["127.0.0.1"], ["169.254.169.254"], ["10.0.0.1", "::1"], []):
        with pytest.raises(Refused, match="it leads into a private network"):
            pin(monkeypatch, addresses)


def test_of_several_addresses_those_are_taken_to_which_it_may_go(monkeypatch):
    assert pin(monkeypatch, ["10.0.0.1", "8.8.8.8"]) == ["8.8.8.8"]
    assert pin(monkeypatch, ["8.8.8.8", "127.0.0.1", "10.0.0.1"], allowed=LOOPBACK) == ["8.8.8.8", "127.0.0.1"]
    assert pin(monkeypatch, ["8.8.8.8", "127.0.0.1"], scheme="http", allowed=LOOPBACK) == ["127.0.0.1"]


def test_plain_http_goes_to_allowed_networks_alone(monkeypatch):
    assert pin(monkeypatch, ["127.0.0.1"], scheme="http", allowed=LOOPBACK) == ["127.0.0.1"]
    with pytest.raises(Refused, match="plain http:// is only for the networks"):
        pin(monkeypatch, ["8.8.8.8"], scheme="http", allowed=LOOPBACK)


@pytest.mark.parametrize("host", ["127.0.0.1", "2130706433", "0x7f.1", "127.1", "0", "localhost", "::1"])
def test_no_way_of_writing_the_own_machine_gets_by(host):
    """Whatever the system's resolver makes of it, it is judged by what it is."""

    async def main():
        await pinned(Address("https", host, 443), ())

    with pytest.raises((Refused, OSError)):
        asyncio.run(main())


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "2130706433", "0x7f.1", "127.1", "0", "localhost", "LOCALHOST.", "a.localhost", "[::1]", "10.1.2.3",
     "169.254.169.254", "[fd00::1]", "[::ffff:10.0.0.1]"],
)  # fmt: skip
def test_what_is_known_to_lead_inside_is_refused_without_asking_anybody(monkeypatch, host):
    monkeypatch.setattr(destination, "look_up", None)
    with pytest.raises(Refused, match="it leads into a private network"):
        refuse_at_once(f"https://{host}:8443/hook", ())


def test_only_what_no_try_could_reach_is_refused_beforehand():
    for url, allowed in (
        ("https://hooks.example.com/a", ()),
        ("https://8.8.8.8/a", ()),
        ("https://[2606:4700::1111]/a", ()),
        ("http://hooks.example.com/a", LOOPBACK),
        ("http://127.0.0.1:9/a", LOOPBACK),
        ("https://localhost/a", LOOPBACK),
    ):
        refuse_at_once(url, allowed)
    for url, allowed in (("http://hooks.example.com/a", ()), ("http://8.8.8.8/a", LOOPBACK)):
        with pytest.raises(Refused, match="plain http:// is only for the networks"):
            refuse_at_once(url, allowed)
    with pytest.raises(ValueError, match="its scheme is not http or https"):
        refuse_at_once("ftp://127.0.0.1", ())


def test_names_that_nobody_answers_for_leave_those_of_providers_alone(monkeypatch):
    """The event loop looks these up by threads of its own, which are few."""
    is_over = threading.Event()
    real = socket.getaddrinfo

    def getaddrinfo(host, *more, **options):
        if host.startswith("stuck"):
            is_over.wait(30)
            raise socket.gaierror(-3, "Temporary failure in name resolution")
        return real(host, *more, **options)

    async def main():
        stuck = [asyncio.create_task(pinned(Address("https", f"stuck{n}.example.com", 443), ())) for n in range(50)]
        async with asyncio.timeout(10):
            assert await asyncio.get_running_loop().getaddrinfo("127.0.0.1", 443)
        is_over.set()
        assert all(isinstance(each, OSError) for each in await asyncio.gather(*stuck, return_exceptions=True))

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    try:
        asyncio.run(main())
    finally:
        is_over.set()


def test_no_more_names_are_looked_up_at_once_than_there_is_room_for(monkeypatch):
    monkeypatch.setattr(destination, "_lookups", threading.BoundedSemaphore(1))

    async def main():
        for _ in range(3):
            assert await destination.look_up("127.0.0.1", 443)
        with destination._lookups, pytest.raises(OSError, match="too many names"):
            await destination.look_up("127.0.0.1", 443)

    asyncio.run(main())

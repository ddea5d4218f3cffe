"""Base URLs, proxy URLs, and which proxy the environment wants."""

import pytest

from tollhouse.providers.address import Address, parse_base_url, parse_proxy_url, proxy_from_environment


@pytest.mark.parametrize(
    ("base_url", "authority", "host_and_port", "target"),
    [
        ("https://api.example.com", "api.example.com", "api.example.com:443", "/v1/x"),
        ("https://api.example.com/", "api.example.com", "api.example.com:443", "/v1/x"),
        ("HTTPS://API.example.com:443/openai/", "api.example.com", "api.example.com:443", "/openai/v1/x"),
        ("http://localhost:11434/v1", "localhost:11434", "localhost:11434", "/v1/v1/x"),
        ("http://h:443", "h:443", "h:443", "/v1/x"),
        ("https://[::1]:8443/a/b", "[::1]:8443", "[::1]:8443", "/a/b/v1/x"),
        ("http://[2001:db8::1]", "[2001:db8::1]", "[2001:db8::1]:80", "/v1/x"),
        (
            "https://r.openai.azure.com/openai?api-version=2024-10-21",
            "r.openai.azure.com",
            "r.openai.azure.com:443",
            "/openai/v1/x?api-version=2024-10-21",
        ),
    ],
)
def test_a_base_url_is_taken_apart(base_url, authority, host_and_port, target):
    url = parse_base_url(base_url)
    assert url.address.authority == authority
    assert url.address.host_and_port == host_and_port
    assert url.target("/v1/x") == target


def test_the_queries_of_base_url_and_request_are_merged():
    url = parse_base_url("https://h/p?api-version=1")
    assert url.target("/x?alt=sse") == "/p/x?alt=sse&api-version=1"
    assert parse_base_url("https://h/p").target("/x?alt=sse") == "/p/x?alt=sse"


@pytest.mark.parametrize(
    "base_url",
    [
        "",
        "api.example.com",
        "//api.example.com",
        "ftp://h",
        "https://",
        "https:///path",
        "https://h:0",
        "https://h:65536",
        "https://h:x",
        "https://[::1",
        "https://h/a b",
        "https://h/\r\nX: y",
        "https://h\0",
        "https://münchen.example",
        "https://h h",
        "https://h/#fragment",
        "https://h/#",
        "https://secret@h",
        "https://:secret@h",
        "https://h<secret>",
        "https://h%2f",
    ],
)
def test_a_malformed_base_url_is_refused_without_repeating_it(base_url):
    with pytest.raises(ValueError) as caught:
        parse_base_url(base_url)
    assert "base_url must" in str(caught.value)
    assert "secret" not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    ("proxy_url", "address", "authorization"),
    [
        ("http://proxy:3128", Address("http", "proxy", 3128), None),
        ("proxy:3128", Address("http", "proxy", 3128), None),
        ("proxy", Address("http", "proxy", 80), None),
        ("https://proxy/", Address("https", "proxy", 443), None),
        ("http://me:p%40ss@[::1]:1", Address("http", "::1", 1), "Basic bWU6cEBzcw=="),
        ("me@proxy:1", Address("http", "proxy", 1), "Basic bWU6"),
    ],
)
def test_a_proxy_url_is_taken_apart(proxy_url, address, authorization):
    proxy = parse_proxy_url(proxy_url)
    assert (proxy.address, proxy.authorization) == (address, authorization)


@pytest.mark.parametrize("proxy_url", ["socks5://secret@p:1", "http://p/secret", "http://p?secret", "p:port"])
def test_a_malformed_proxy_url_is_refused_without_repeating_it(proxy_url):
    with pytest.raises(ValueError, match="the proxy's URL must") as caught:
        parse_proxy_url(proxy_url)
    assert "secret" not in str(caught.value)


def test_each_scheme_has_its_variable_and_all_proxy_is_for_the_rest():
    environ = {"https_proxy": "http://s:1", "http_proxy": "http://h:1", "all_proxy": "http://a:1"}
    assert proxy_from_environment("https://x", environ) == "http://s:1"
    assert proxy_from_environment("http://x", environ) == "http://h:1"
    assert proxy_from_environment("http://x", {"ALL_PROXY": "http://a:1"}) == "http://a:1"
    assert proxy_from_environment("https://x", {"ALL_PROXY": "http://a:1"}) == "http://a:1"
    assert proxy_from_environment("https://x", {"http_proxy": "http://h:1"}) is None
    assert proxy_from_environment("https://x", {}) is None


def test_the_lower_case_name_wins_and_an_empty_value_counts_as_none():
    assert proxy_from_environment("https://x", {"https_proxy": "low:1", "HTTPS_PROXY": "up:1"}) == "low:1"
    assert proxy_from_environment("https://x", {"https_proxy": " ", "HTTPS_PROXY": "up:1"}) == "up:1"
    assert proxy_from_environment("https://x", {"HTTPS_PROXY": ""}) is None


def test_upper_case_http_proxy_is_not_trusted():
    assert proxy_from_environment("http://x", {"HTTP_PROXY": "http://h:1"}) is None


@pytest.mark.parametrize(
    ("host", "no_proxy", "direct"),
    [
        ("api.example.com", "*", True),
        ("api.example.com", "api.example.com", True),
        ("api.example.com", "API.Example.com", True),
        ("api.example.com", "example.com", True),
        ("api.example.com", ".example.com", True),
        ("api.example.com", "*.example.com", True),
        ("example.com", ".example.com", True),
        ("api.example.com.", "example.com", True),
        ("api.example.com", "example.com.", True),
        ("badexample.com", "example.com", False),
        ("example.com.evil", "example.com", False),
        ("api.example.com", "other.com, example.com", True),
        ("api.example.com", "other.com example.com", True),
        ("api.example.com", "other.com,,", False),
        ("api.example.com", "", False),
        ("api.example.com", ".", False),
        ("api.example.com", "api.example.com:443", True),
        ("api.example.com:8443", "api.example.com:8443", True),
        ("api.example.com:8443", "api.example.com:443", False),
        ("api.example.com:8443", "api.example.com", True),
        ("10.1.2.3", "10.1.2.3", True),
        ("10.1.2.3", "10.1.2.3:443", True),
        ("10.1.2.3", "10.1.2.3:80", False),
        ("10.1.2.3", "10.0.0.0/8", True),
        ("10.1.2.3", "10.1.2.0/24", True),
        ("11.1.2.3", "10.0.0.0/8", False),
        ("10.1.2.3", "2.3", False),
        ("10.1.2.3", "::/0", False),
        ("[::1]", "::1", True),
        ("[::1]", "[::1]", True),
        ("[::1]", "[::1]:443", True),
        ("[::1]", "[::1]:80", False),
        ("[0:0:0:0:0:0:0:1]", "::1", True),
        ("[fd00::5]", "fd00::/8", True),
        ("[fe80::5]", "fd00::/8", False),
        ("host", "10.0.0.0/8", False),
    ],
)
def test_no_proxy_lists_the_exceptions(host, no_proxy, direct):
    for name in ("no_proxy", "NO_PROXY"):
        environ = {"https_proxy": "http://p:1", name: no_proxy}
        assert proxy_from_environment(f"https://{host}", environ) == (None if direct else "http://p:1")

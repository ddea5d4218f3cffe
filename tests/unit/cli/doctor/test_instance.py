"""Where the doctor looks for an instance, by its configuration."""

import pytest

from tollhouse.cli.doctor.instance import Instance, configured_instance
from tollhouse.config import Server

TLS = {"tls_certificate": "/c", "tls_key": "/k"}


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, Instance("http://127.0.0.1:8080")),
        ({"host": "0.0.0.0"}, Instance("http://127.0.0.1:8080")),
        ({"host": "::"}, Instance("http://[::1]:8080")),
        ({"port": 0}, None),
        (TLS, Instance("https://127.0.0.1:8080", certificate="/c")),
        ({**TLS, "tls_client_ca": "/a"}, None),
        ({"admin_port": 9090, "host": "10.0.0.5"}, Instance("http://127.0.0.1:9090")),
        ({**TLS, "admin_port": 9090}, Instance("https://127.0.0.1:9090", certificate="/c")),
        ({**TLS, "tls_client_ca": "/a", "admin_port": 9090, "admin_tls": False}, Instance("http://127.0.0.1:9090")),
        ({"admin_port": 0}, None),
    ],
)
def test_an_instance_is_asked_where_operators_are_served(keys, expected):
    assert configured_instance(Server(**keys)) == expected

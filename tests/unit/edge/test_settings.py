from decimal import Decimal

import msgspec
import pytest

from tollhouse.config import Config, Edge, Limits, Server
from tollhouse.config.load import load_config
from tollhouse.config.model import Tier, TierLimits
from tollhouse.edge.envoy import envoy_configuration
from tollhouse.edge.nginx import nginx_configuration, quoted
from tollhouse.edge.settings import Tls, UpstreamTls, settings_of
from tollhouse.errors import StartError

PLAIN = Edge(plain_http=True, http_port=8000, upstreams=("10.0.0.1:8080",))


def test_upstreams_default_to_the_configurations_own_instance():
    config = Config(server=Server(host="0.0.0.0", port=9000), edge=msgspec.structs.replace(PLAIN, upstreams=()))

    assert settings_of(config).groups[0].upstreams == ("127.0.0.1:9000",)


def test_instances_of_one_feature_share_it_and_its_slug_is_encoded():
    edge = msgspec.structs.replace(PLAIN, feature_upstreams=("a b=h:1", "c=h:2", "a b=h:3"))

    groups = settings_of(Config(edge=edge)).groups[1:]

    assert [(group.feature, group.upstreams) for group in groups] == [("a%20b", ("h:1", "h:3")), ("c", ("h:2",))]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"plain_http": False}, "certificate_key"),
        ({"http_port": 0}, "http_port"),
        ({"feature_upstreams": ("A=h:1", "a=h:1")}, "differ in case"),
    ],
)
def test_what_contradicts_itself_is_refused(changes, told):
    with pytest.raises(StartError, match=told):
        settings_of(Config(edge=msgspec.structs.replace(PLAIN, **changes)))


def test_a_host_that_is_no_host_is_refused():
    config = Config(server=Server(host="h;}"), edge=msgspec.structs.replace(PLAIN, upstreams=()))

    with pytest.raises(StartError, match="host"):
        settings_of(config)


INJECTIONS = (
    "h:80; }",
    "h:80\nx",
    "h:80 backup",
    "$host:80",
    "h:0",
    "h:65536",
    "h",
    "[::1",
    "[1:80",
    'h":80',
    "[zz]:80",
    "",
)


@pytest.mark.parametrize("value", INJECTIONS)
@pytest.mark.parametrize("key", ["upstreams", "feature_upstreams"])
def test_an_upstream_holds_nothing_else(tmp_path, key, value):
    prefix = "f=" if key == "feature_upstreams" else ""

    with pytest.raises(StartError, match=key.upper()):
        load_config(None, {f"TOLLHOUSE_EDGE__{key.upper()}": prefix + value or ","})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("server_names", "a;b"),
        ("server_names", "~^.*$"),
        ("certificate", "/x;y"),
        ("certificate", "x"),
        ("certificate_key", "/x y"),
        ("address", "0.0.0.0;"),
        ("trusted_proxies", "10.0.0.0/33"),
        ("trusted_proxies", "all"),
    ],
)
def test_other_values_hold_nothing_else_either(key, value):
    with pytest.raises(StartError, match=key.upper()):
        load_config(None, {f"TOLLHOUSE_EDGE__{key.upper()}": value})


def test_a_slug_cannot_end_its_parameter(tmp_path):
    edge = msgspec.structs.replace(PLAIN, feature_upstreams=("a'; } $x \"{{@@main=h:1",))
    settings = settings_of(Config(edge=edge))

    assert "'a%27%3B%20%7D%20%24x%20%22%7B%7B%40%40main' tollhouse_feature_1;" in nginx_configuration(
        settings, log_directory=tmp_path
    )
    assert '"exact": "a%27%3B%20%7D%20%24x%20%22%7B%7B%40%40main"' in envoy_configuration(settings)


def test_nginx_is_given_no_variable_by_accident():
    assert quoted("it's \\ fine") == "'it\\'s \\\\ fine'"
    for text in ("$host", "a\nb"):
        with pytest.raises(ValueError, match="cannot stand"):
            quoted(text)


def test_a_service_with_tls_of_its_own_is_reached_by_tls_or_not_at_all():
    server = Server(tls_certificate="/c", tls_key="/k")
    mutual = msgspec.structs.replace(server, tls_client_ca="/a")
    known = {"upstream_ca": "/ca", "upstream_server_name": "tollhouse.internal"}
    shown = {"upstream_certificate": "/edge", "upstream_certificate_key": "/edge.key"}

    def found(server: Server, **changes: str) -> UpstreamTls | None:
        return settings_of(Config(edge=msgspec.structs.replace(PLAIN, **changes), server=server)).upstream_tls

    assert found(Server()) is None
    assert found(server, **known) == UpstreamTls("/ca", "tollhouse.internal", None)
    assert found(mutual, **known, **shown) == UpstreamTls("/ca", "tollhouse.internal", Tls("/edge", "/edge.key"))
    for given, changes, told in (
        (server, {}, "upstream_ca: is missing, while the service has"),
        (Server(), {"upstream_server_name": "x"}, "upstream_ca: is missing, while instances are to have TLS"),
        (server, {"upstream_ca": "/ca"}, "upstream_server_name: is missing"),
        (mutual, known, "upstream_certificate, upstream_certificate_key: expected both"),
        (server, {**known, "upstream_certificate": "/edge"}, "expected both"),
    ):
        with pytest.raises(StartError, match=told):
            found(given, **changes)


def test_without_a_limit_there_is_none(tmp_path):
    settings = settings_of(Config(edge=PLAIN, limits=Limits(requests_per_minute=0)))

    assert "limit_req" not in nginx_configuration(settings, log_directory=tmp_path)
    assert "local_ratelimit" not in envoy_configuration(settings)


def test_limits_are_those_of_the_service(tmp_path):
    settings = settings_of(Config(edge=PLAIN, limits=Limits(requests_per_minute=7, burst=3)))

    text = nginx_configuration(settings, log_directory=tmp_path)
    assert "rate=7r/m" in text
    assert "burst=3 nodelay" in text
    assert "add_header Retry-After 9 always;" in text
    assert '"max_tokens": 3, "tokens_per_fill": 1, "fill_interval": "8.571s"' in envoy_configuration(settings)


@pytest.mark.parametrize(("of_tier", "rate"), [(50, 50), (5, 7), (0, 0)])
def test_tenants_of_no_tier_are_held_back_before_their_own_limit(of_tier, rate):
    tiers = {"large": Tier(budget_usd=Decimal(1), limits=TierLimits(requests_per_minute=of_tier, burst=9))}
    settings = settings_of(Config(edge=PLAIN, limits=Limits(requests_per_minute=7, burst=3), tiers=tiers))
    assert (settings.requests_per_minute, settings.burst) == (rate, 9)

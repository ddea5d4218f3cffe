"""The configuration of an Envoy that is an edge gateway."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from tollhouse import __version__
from tollhouse.edge.answers import SHAPES, Shape, own_answers
from tollhouse.edge.public import PUBLIC
from tollhouse.edge.settings import MAIN, Group, Settings
from tollhouse.edge.template import fill, indented
from tollhouse.errors import TollhouseError

_REQUEST_ID = "%REQ(X-REQUEST-ID)%"
_TYPES = "type.googleapis.com/envoy"
# How an upstream's connection ends after it was given the request: what came of that is not known.
_LOST = ["UC", "UR"]
_SLOW_START_S = 30
_TENANTS_MAX = 100_000


def envoy_configuration(settings: Settings, *, admin_port: int | None = None) -> str:
    """Return a whole bootstrap configuration, in YAML.

    Args:
        admin_port: where Envoy's own interface is reached, from this machine alone; None for none.
    """
    admin = {"address": {"socket_address": {"address": "127.0.0.1", "port_value": admin_port}}}
    return fill(
        "envoy.yaml",
        version=__version__,
        main=MAIN,
        admin="" if admin_port is None else f"admin: {_flow(admin)}",
        address=settings.address,
        port=settings.http_port if settings.tls is None else settings.https_port,
        max_header_kib=max(1, settings.max_header_bytes // 1024),
        client_address=indented(_client_address(settings), 16),
        read_timeout_s=settings.read_timeout_s,
        local_replies=indented(_items(_local_replies(settings)), 20),
        question_retries=_flow(_retries(settings.groups[0], "connect-failure,refused-stream,reset")),
        rate_limit=indented(_rate_limit(settings), 18),
        max_body_bytes=settings.max_body_bytes,
        domains=_flow(_domains(settings)),
        routes=indented(_items(_routes(settings)), 24),
        transport_socket=indented(_transport_socket(settings), 10),
        redirect=indented(_redirect(settings), 4),
        clusters="\n".join(_cluster(group, settings) for group in settings.groups),
    )


def _flow(value: object) -> str:
    """Return a value as YAML on one line: JSON is YAML too, and nothing in it can end it early."""
    return json.dumps(value, ensure_ascii=True)


def _items(values: Iterable[object]) -> str:
    return "\n".join(f"- {_flow(value)}" for value in values)


def _client_address(settings: Settings) -> str:
    if not settings.trusted_proxies:
        return "use_remote_address: true"
    networks = [each.partition("/") for each in settings.trusted_proxies]
    trusted = [
        {"address_prefix": address, "prefix_len": int(length or (128 if ":" in address else 32))}
        for address, _, length in networks
    ]
    detection = {
        "name": "envoy.http.original_ip_detection.xff",
        "typed_config": {
            "@type": f"{_TYPES}.extensions.http.original_ip_detection.xff.v3.XffConfig",
            "xff_trusted_cidrs": {"cidrs": trusted},
        },
    }
    return f"use_remote_address: false\noriginal_ip_detection_extensions: [{_flow(detection)}]"


def _local_replies(settings: Settings) -> Iterable[Mapping[str, Any]]:
    """Yield what turns Envoy's own answers into ours, the first that fits being taken."""
    lost = {"response_flag_filter": {"flags": _LOST}}
    answers = {answer.status: answer for answer in own_answers(settings.retry_limited_s)}
    for shape in SHAPES:
        # Envoy's own status for a lost instance is 503, which callers may take for a reason to send the request again.
        yield _mapper(shape, answers[502], lost, becomes=502)
        for answer in answers.values():
            yield _mapper(shape, answer, _has_status(answer.status))


def _has_status(status: int) -> Mapping[str, Any]:
    value = {"default_value": status, "runtime_key": "tollhouse.unset"}
    return {"status_code_filter": {"comparison": {"op": "EQ", "value": value}}}


def _mapper(
    shape: Shape, answer: TollhouseError, when: Mapping[str, Any], *, becomes: int | None = None
) -> Mapping[str, Any]:
    # The last shape takes what is left, also a head that was never read as far as its path.
    path = {"name": ":path", "string_match": {"safe_regex": {"regex": f"({shape.pattern}).*"}}}
    filters = {"and_filter": {"filters": [when, {"header_filter": {"header": path}}]}} if shape.pattern else when
    headers = [{"header": {"key": "x-request-id", "value": _REQUEST_ID}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"}]
    if answer.retry_after_s is not None:
        retry = {"key": "retry-after", "value": str(answer.retry_after_s)}
        headers.append({"header": retry, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"})
    if answer.may_be_billed:
        never = {"key": "x-should-retry", "value": "false"}
        headers.append({"header": never, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"})
    body = json.loads(shape.write(answer, _REQUEST_ID))
    return {
        "filter": filters,
        **({} if becomes is None else {"status_code": becomes}),
        "headers_to_add": headers,
        "body_format_override": {"json_format": body, "content_type": "application/json"},
    }


def _rate_limit(settings: Settings) -> str:
    if not settings.requests_per_minute:
        return ""
    always = '{ default_value: { numerator: 100, denominator: HUNDRED }, runtime_key: "tollhouse.unset" }'
    rate = settings.requests_per_minute
    # A bucket is filled by whole requests, at an interval that Envoy keeps at 50 ms at least.
    fill_s = max(60 / rate, 0.05)
    bucket = {
        "max_tokens": settings.burst,
        "tokens_per_fill": max(round(rate * fill_s / 60), 1),
        "fill_interval": f"{fill_s:.3f}s",
    }
    kinds = (("read", "^(GET|HEAD)$", True), ("call", "^(GET|HEAD)$", False))
    actions = [
        {
            "actions": [
                {"request_headers": {"header_name": "x-tollhouse-tenant", "descriptor_key": "tenant"}},
                {
                    "header_value_match": {
                        "descriptor_key": "kind",
                        "descriptor_value": kind,
                        "expect_match": expected,
                        "headers": [{"name": ":method", "string_match": {"safe_regex": {"regex": pattern}}}],
                    }
                },
            ]
        }
        for kind, pattern, expected in kinds
    ]
    descriptors = [
        {"entries": [{"key": "tenant"}, {"key": "kind", "value": kind}], "token_bucket": bucket} for kind, _, _ in kinds
    ]
    return f"""\
# Whose allowance a request uses: the tenant that Tollhouse has named once it knew the key. Reading has an allowance
# of its own. A request whose tenant stands in its body alone is counted by Tollhouse.
- name: envoy.filters.http.local_ratelimit
  typed_config:
    "@type": {_TYPES}.extensions.filters.http.local_ratelimit.v3.LocalRateLimit
    stat_prefix: tenants
    # For as many tenants at once; beyond that those who were away longest are forgotten.
    max_dynamic_descriptors: {_TENANTS_MAX}
    # What no descriptor fits is not limited.
    token_bucket: {{ max_tokens: 4294967295, tokens_per_fill: 4294967295, fill_interval: 1s }}
    always_consume_default_token_bucket: false
    filter_enabled: {always}
    filter_enforced: {always}
    descriptors:
{indented(_items(descriptors), 6)}
    rate_limits:
{indented(_items(actions), 6)}"""


def _domains(settings: Settings) -> list[str]:
    return [domain for name in settings.server_names for domain in (name, f"{name}:*")] or ["*"]


def _routes(settings: Settings) -> Iterable[Mapping[str, Any]]:
    """Yield the routes that callers may take: those of events and of features first."""
    no_buffer = {"@type": f"{_TYPES}.extensions.filters.http.buffer.v3.BufferPerRoute", "disabled": True}
    # A WebSocket has no end that could be waited for.
    events = {"typed_per_filter_config": {"envoy.filters.http.buffer": no_buffer}}
    for group in reversed(settings.groups):
        to: dict[str, Any] = {
            "cluster": group.name,
            # No bound on a whole answer: the bound on silence ends what hangs.
            "timeout": "0s",
            # Not sent at all, so that another instance may have it; whatever was sent is never sent again.
            "retry_policy": _retries(group, "connect-failure"),
        }
        if group.tells_events:
            yield {"match": {"path_separated_prefix": "/events"}, "route": to, **events}
            continue
        headers = []
        if group.feature is not None:
            headers.append({"name": "x-tollhouse-feature", "string_match": {"exact": group.feature}})
        yield {"match": {"path_separated_prefix": "/events", "headers": headers}, "route": to, **events}
        yield {"match": {"safe_regex": {"regex": f"({PUBLIC}).*"}, "headers": headers}, "route": to}


def _retries(group: Group, when: str) -> Mapping[str, Any]:
    """Return when to try another instance, as often as there are any, and none that was tried."""
    previous = f"{_TYPES}.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate"
    predicate = {"name": "envoy.retry_host_predicates.previous_hosts", "typed_config": {"@type": previous}}
    return {
        "retry_on": when,
        "num_retries": len(group.upstreams),
        "retry_host_predicate": [predicate],
        # The freer of two at random is chosen, and none is freer than one that is down: it may come up many times.
        "host_selection_retry_max_attempts": 64,
    }


def _transport_socket(settings: Settings) -> str:
    if settings.tls is None:
        return ""
    certificate = {
        "certificate_chain": {"filename": settings.tls.certificate},
        "private_key": {"filename": settings.tls.key},
    }
    return f"""\
transport_socket:
  name: envoy.transport_sockets.tls
  typed_config:
    "@type": {_TYPES}.extensions.transport_sockets.tls.v3.DownstreamTlsContext
    common_tls_context:
      alpn_protocols: [h2, http/1.1]
      tls_params: {{ tls_minimum_protocol_version: TLSv1_2, tls_maximum_protocol_version: TLSv1_3 }}
      tls_certificates: [{_flow(certificate)}]"""


def _upstream_transport_socket(settings: Settings) -> str:
    """Return how a cluster's instances are spoken to: they are who they say they are, or get nothing."""
    tls = settings.upstream_tls
    if tls is None:
        return ""
    name = {"san_type": "DNS", "matcher": {"exact": tls.server_name}}
    common: dict[str, Any] = {
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_2", "tls_maximum_protocol_version": "TLSv1_3"},
        "validation_context": {"trusted_ca": {"filename": tls.ca}, "match_typed_subject_alt_names": [name]},
    }
    if tls.client is not None:
        certificate, key = {"filename": tls.client.certificate}, {"filename": tls.client.key}
        common["tls_certificates"] = [{"certificate_chain": certificate, "private_key": key}]
    context = {
        "@type": f"{_TYPES}.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "sni": tls.server_name,
        "common_tls_context": common,
    }
    return f"transport_socket: {_flow({'name': 'envoy.transport_sockets.tls', 'typed_config': context})}"


def _redirect(settings: Settings) -> str:
    """Return the listener that leads to HTTPS; the status keeps the method and the body."""
    if settings.tls is None or not settings.http_port:
        return ""
    port = "" if settings.https_port == 443 else f", port_redirect: {settings.https_port}"
    return f"""\
- name: to_https
  address: {{ socket_address: {{ address: "{settings.address}", port_value: {settings.http_port} }} }}
  filter_chains:
    - filters:
        - name: envoy.filters.network.http_connection_manager
          typed_config:
            "@type": {_TYPES}.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
            stat_prefix: to_https
            request_headers_timeout: 10s
            route_config:
              virtual_hosts:
                - name: to_https
                  domains: {_flow(_domains(settings))}
                  routes:
                    - match: {{ prefix: / }}
                      redirect: {{ https_redirect: true, response_code: PERMANENT_REDIRECT{port} }}
            http_filters:
              - name: envoy.filters.http.router
                typed_config:
                  "@type": {_TYPES}.extensions.filters.http.router.v3.Router"""


def _cluster(group: Group, settings: Settings) -> str:
    endpoints = []
    for upstream in group.upstreams:
        host, _, port = upstream.rpartition(":")
        at = {"socket_address": {"address": host.strip("[]"), "port_value": int(port)}}
        endpoints.append({"endpoint": {"address": at}})
    most = settings.max_connections * len(endpoints)
    bounds = dict.fromkeys(("max_connections", "max_pending_requests", "max_requests", "max_retries"), most)
    return f"""\
    - name: {group.name}
      type: STRICT_DNS
      connect_timeout: 2s
      # Who has the fewest open requests is the freest; one that is back takes its full share only after a while.
      lb_policy: LEAST_REQUEST
      least_request_lb_config: {{ slow_start_config: {{ slow_start_window: {_SLOW_START_S}s }} }}
      # Without an instance that is up there is an answer at once, rather than a try with one that is down.
      common_lb_config: {{ healthy_panic_threshold: {{ value: 0 }} }}
      # /readyz says of an instance whether it can take a call, which is whether it can write the ledger. /health
      # would also have it look at its providers, on whose account no instance is better than another.
      health_checks:
        - timeout: 3s
          interval: 2s
          no_traffic_interval: 2s
          unhealthy_threshold: 2
          healthy_threshold: 1
          http_health_check: {{ path: /readyz }}
      # Connections that fail or break take an instance out before the next look does. Its answers do not: 503 may be a
      # provider's doing, and then every instance gives it.
      outlier_detection:
        split_external_local_origin_errors: true
        consecutive_local_origin_failure: {settings.max_fails}
        enforcing_consecutive_local_origin_failure: 100
        enforcing_local_origin_success_rate: 0
        enforcing_consecutive_5xx: 0
        enforcing_consecutive_gateway_failure: 0
        enforcing_success_rate: 0
        interval: 1s
        base_ejection_time: {settings.fail_timeout_s}s
        max_ejection_time: {settings.fail_timeout_s}s
        max_ejection_percent: 100
      circuit_breakers: {{ thresholds: [{_flow(bounds)}] }}
      typed_extension_protocol_options:
        envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
          "@type": {_TYPES}.extensions.upstreams.http.v3.HttpProtocolOptions
          explicit_http_config: {{ http_protocol_options: {{}} }}
          # Tollhouse closes idle connections after 75 s. Whoever closes first sends no request into a closed one.
          common_http_protocol_options: {{ idle_timeout: 60s }}
{indented(_upstream_transport_socket(settings), 6)}
      load_assignment:
        cluster_name: {group.name}
        endpoints: [{{ lb_endpoints: {_flow(endpoints)} }}]"""

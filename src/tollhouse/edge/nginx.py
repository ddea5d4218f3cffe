"""The configuration of an nginx that is an edge gateway."""

from pathlib import Path

from tollhouse import __version__
from tollhouse.edge.answers import RETRY_UNAVAILABLE_S, SHAPES, own_answers
from tollhouse.edge.public import EVENTS, PUBLIC
from tollhouse.edge.settings import MAIN, Group, Settings
from tollhouse.edge.template import fill, indented
from tollhouse.errors import TollhouseError

# Mozilla's intermediate configuration: every client of the last ten years, forward secrecy alone.
_CIPHERS = (
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:"
    "ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305"
)
_REQUEST_ID = "$edge_request_id"
_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


def nginx_configuration(settings: Settings, *, log_directory: Path, state_directory: Path | None = None) -> str:
    """Return a whole ``nginx.conf``.

    Args:
        log_directory: where its access and error logs go; absolute.
        state_directory: where its pid and temporary files go; None leaves them where it was built to keep them.
    """
    answers = own_answers(settings.retry_limited_s)
    state = None if state_directory is None else quoted(str(state_directory))
    temporary = "" if state is None else "\n".join(f"{name}_temp_path {state[:-1]}/{name}';" for name in _TEMPORARY)
    features = "\n".join(f"{quoted(group.feature)} {group.name};" for group in settings.groups if group.feature)
    events = "\n".join(f'"~{EVENTS}" {group.name};' for group in settings.groups if group.tells_events)
    limit = f"limit_req zone={MAIN}_tenants burst={settings.burst} nodelay;\nlimit_req_status 429;"
    return fill(
        "nginx.conf",
        version=__version__,
        main=MAIN,
        public=PUBLIC,
        error_log=quoted(f"{log_directory}/error.log"),
        access_log=quoted(f"{log_directory}/access.log"),
        pid="" if state is None else f"pid {state[:-1]}/nginx.pid';",
        temp_paths=indented(temporary, 4),
        upstream_scheme="http" if settings.upstream_tls is None else "https",
        upstream_tls=indented(_upstream_tls(settings), 4),
        max_body_bytes=settings.max_body_bytes,
        buffer_bytes=settings.max_body_bytes + settings.max_body_bytes // 8,
        retry_unavailable_s=RETRY_UNAVAILABLE_S,
        read_timeout_s=settings.read_timeout_s,
        limit_zone=indented(_limit_zone(settings), 4),
        limit=indented(limit if settings.requests_per_minute else "", 12),
        feature_map=indented(features, 8),
        events_map=indented(events, 8),
        upstream_groups="\n".join(_upstream(group, settings) for group in settings.groups),
        shapes="\n".join(f'        "~{shape.pattern}" {shape.name};' for shape in SHAPES if shape.pattern),
        bodies="\n".join(_bodies(answer) for answer in answers),
        real_ip=indented(_real_ip(settings), 4),
        listen=_listen(settings),
        server_names=" ".join(settings.server_names) or "_",
        other_servers=_other_servers(settings),
        tls=indented(_tls(settings), 8),
        error_locations="\n".join(_error_location(answer) for answer in answers),
    )


def quoted(text: str) -> str:
    """Return a text as one parameter of nginx's.

    Raises:
        ValueError: it holds what nginx would replace, or a control character.
    """
    if "$" in text.replace(_REQUEST_ID, "") or not text.isprintable():
        raise ValueError(f"{text!r} cannot stand in a configuration of nginx")
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _limit_zone(settings: Settings) -> str:
    if not settings.requests_per_minute:
        return ""
    # 16 MiB hold about a hundred thousand tenants; beyond that those who were away longest are forgotten.
    rate = f"{settings.requests_per_minute}r/m"
    return f"limit_req_zone $edge_limit_key zone={MAIN}_tenants:16m rate={rate};"


def _upstream(group: Group, settings: Settings) -> str:
    rules = (
        f"max_fails={settings.max_fails} fail_timeout={settings.fail_timeout_s}s max_conns={settings.max_connections}"
    )
    servers = "\n".join(f"        server {upstream} {rules};" for upstream in group.upstreams)
    return f"""\
    upstream {group.name} {{
        # Shared by all workers, so that they agree on who has failed.
        zone {group.name} 256k;
        least_conn;
{servers}
        # Tollhouse closes idle connections after 75 s. Whoever closes first sends no request into a closed one.
        keepalive 256;
        keepalive_requests 100000;
        keepalive_timeout 60s;
    }}
"""


def _bodies(answer: TollhouseError) -> str:
    lines = [
        f"        {shape.name if shape.pattern else 'default'} {quoted(shape.write(answer, _REQUEST_ID).decode())};"
        for shape in reversed(SHAPES)
    ]
    return "\n".join([f"    map $edge_api $edge_body_{answer.status} {{", *lines, "    }"])


def _real_ip(settings: Settings) -> str:
    if not settings.trusted_proxies:
        return ""
    trusted = [f"set_real_ip_from {proxy};" for proxy in settings.trusted_proxies]
    return "\n".join([*trusted, "real_ip_header X-Forwarded-For;", "real_ip_recursive on;"])


def _listen(settings: Settings, port: int | None = None) -> str:
    address = f"[{settings.address}]" if ":" in settings.address else settings.address
    if settings.tls is None:
        return f"{address}:{settings.http_port}"
    # Newer nginx has a directive of its own for HTTP/2, and takes this too; older ones take only this.
    return f"{address}:{settings.https_port} ssl http2" if port is None else f"{address}:{port}"


def _tls(settings: Settings) -> str:
    if settings.tls is None:
        return ""
    return f"""\
ssl_certificate {settings.tls.certificate};
ssl_certificate_key {settings.tls.key};
ssl_protocols TLSv1.2 TLSv1.3;
ssl_ciphers {_CIPHERS};
ssl_prefer_server_ciphers off;
ssl_session_cache shared:{MAIN}_tls:10m;
ssl_session_timeout 1d;
ssl_session_tickets off;"""


def _upstream_tls(settings: Settings) -> str:
    tls = settings.upstream_tls
    if tls is None:
        return ""
    lines = [
        "# Instances are who they say they are, or get nothing.",
        "proxy_ssl_verify on;",
        "proxy_ssl_verify_depth 4;",
        f"proxy_ssl_trusted_certificate {tls.ca};",
        f"proxy_ssl_name {tls.server_name};",
        "proxy_ssl_server_name on;",
        "proxy_ssl_protocols TLSv1.2 TLSv1.3;",
    ]
    if tls.client is not None:
        lines += [
            f"proxy_ssl_certificate {tls.client.certificate};",
            f"proxy_ssl_certificate_key {tls.client.key};",
        ]
    return "\n".join(lines)


def _other_servers(settings: Settings) -> str:
    """Return the servers of other host names, and the one that leads to HTTPS."""
    servers = []
    if settings.server_names:
        reject = "\n        ssl_reject_handshake on;" if settings.tls else ""
        servers.append(
            f"""\
    # Host names that are not served here.
    server {{
        listen {_listen(settings)} default_server;{reject}
        return 404 $edge_body_404;
    }}
"""
        )
    if settings.tls and settings.http_port:
        port = "" if settings.https_port == 443 else f":{settings.https_port}"
        servers.append(
            f"""\
    # 308 keeps the method and the body.
    server {{
        listen {_listen(settings, settings.http_port)};
        server_name {" ".join(settings.server_names) or "_"};
        return 308 https://$host{port}$request_uri;
    }}
"""
        )
    return "\n".join(servers)


def _error_location(answer: TollhouseError) -> str:
    status = answer.status
    # Of a head that could not be read there is no path that a named location could be entered with.
    is_headless = status in {400, 408, 431}
    where = f"= /_edge/{status}" if is_headless else f"@edge_{status}"
    lines = ["internal;"] if is_headless else []
    lines.append("add_header X-Request-Id $edge_request_id always;")
    if answer.retry_after_s is not None:
        lines.append(f"add_header Retry-After {answer.retry_after_s} always;")
    if status in {502, 504}:
        # Where nothing was sent to any instance, nothing can have come of it.
        lines.append("add_header Retry-After $edge_retry_unsent_s always;")
        lines.append("add_header X-Should-Retry $edge_should_retry always;")
        lines.append("if ($edge_was_sent = 0) {\n    return 503 $edge_body_503;\n}")
    lines.append(f"return {status} $edge_body_{status};")
    return "\n".join([f"        location {where} {{", indented("\n".join(lines), 12), "        }"])

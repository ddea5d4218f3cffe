"""``/edge/authorize``: the address at which an edge gateway asks whose a request is.

Both nginx's ``auth_request`` and Envoy's ``ext_authz`` ask here, with the request's own headers and its target appended
to the path; Envoy also with its method. It is answered ahead of the control plane's framework, since every request
that passes an edge costs one such question.
"""

from urllib.parse import parse_qs, quote

from tollhouse.apps.answers import error_answer
from tollhouse.apps.api import AsgiApp, Receive, Scope, Send
from tollhouse.apps.events import EVENTS_PATH, SOCKET_PATH
from tollhouse.completions.routes import GEMINI_PREFIXES
from tollhouse.edge.authorization import Authorized, authorize
from tollhouse.errors import TollhouseError
from tollhouse.keys.bearer import query_key
from tollhouse.keys.service import Keyring
from tollhouse.kit.clock import Clock
from tollhouse.kit.ids import new_id
from tollhouse.notifications.tokens import EventTokens, is_token

AUTHORIZE_PATH = "/edge/authorize"
_PREFIX = AUTHORIZE_PATH.encode()
# Envoy takes no other success than 200, and nginx any.
_AUTHORIZED = 200


def answering_the_edge(app: AsgiApp, keyring: Keyring, tokens: EventTokens, clock: Clock) -> AsgiApp:
    """Return an application that answers edges itself, and leaves all else to another."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(AUTHORIZE_PATH):
            await app(scope, receive, send)
            return
        target: bytes = scope["raw_path"].removeprefix(_PREFIX)
        if target and not target.startswith(b"/"):
            await app(scope, receive, send)
            return
        status, headers, body = _answer(scope, target, keyring, tokens, clock)
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    return answer


def _answer(
    scope: Scope, target: bytes, keyring: Keyring, tokens: EventTokens, clock: Clock
) -> tuple[int, list[tuple[bytes, bytes]], bytes]:
    try:
        found = _of_follower(scope, target, tokens)
        if found is None:
            # Only Google's API takes a key from the query, here as there.
            in_query = query_key(scope["query_string"]) if target.startswith(GEMINI_PREFIXES) else None
            found = authorize(keyring, scope["headers"], in_query)
    except TollhouseError as error:
        return error_answer(error, new_id("req", clock.now_ms()))
    headers = [(b"content-length", b"0")]
    # Percent-encoded: an id may hold what a header may not. What there is nothing to say of is left out.
    if found.tenant_id is not None:
        headers.append((b"x-tollhouse-tenant", quote(found.tenant_id, safe="").encode()))
    if found.feature_slug:
        headers.append((b"x-tollhouse-feature", quote(found.feature_slug, safe="").encode()))
    return _AUTHORIZED, headers, b""


def _of_follower(scope: Scope, target: bytes, tokens: EventTokens) -> Authorized | None:
    """Return whose a browser's request for events is, by its token; None for any other. Raises Unauthorized."""
    if target.partition(b"?")[0] not in {EVENTS_PATH, SOCKET_PATH}:
        return None
    given = parse_qs(scope["query_string"].decode("latin-1")).get("token", [])
    given += [value.decode("latin-1")[7:] for name, value in scope["headers"] if name == b"authorization"]
    token = next((each for each in given if is_token(each)), None)
    if token is None:
        return None
    (tenant_id,) = tokens.read(token).tenants or ("",)
    return Authorized(tenant_id, "")

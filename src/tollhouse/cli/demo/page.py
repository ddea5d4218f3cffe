"""The demo's page at ``/demo``, and the addresses that it asks: a page of a SaaS with its backend, before Tollhouse.

It acts for whoever opens it, and so is for this machine alone: it answers to no other name, and to no other page.
"""

import ipaddress
import re
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import msgspec
import structlog

from tollhouse.apps.answers import error_answer
from tollhouse.apps.api import AsgiApp, Receive, Scope, Send
from tollhouse.cli.demo.shop import Login, Order, Refusal, Shop
from tollhouse.errors import Forbidden, InternalError, InvalidRequest, MethodNotAllowed, NotFound, TollhouseError
from tollhouse.kit.clock import SystemClock
from tollhouse.kit.ids import new_id
from tollhouse.kit.validation import decode_json

T = TypeVar("T")
Headers = list[tuple[bytes, bytes]]

_ROOT = "/demo"
_MOST_BODY_BYTES = 16 * 1024
_FOLDER = "static"
_INDEX = "index.html"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
# The page needs nothing but its own files and addresses; what a model wrote is never more than text in it.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'"
)
_HEADERS: Headers = [
    (b"content-security-policy", _POLICY.encode()),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
]
_TENANT_ID = re.compile(r"[0-9]{1,9}")
_JOB_ID = re.compile(r"job_[0-9a-z]{1,60}")
_LOG = structlog.get_logger("tollhouse.demo")

_logins = msgspec.json.Decoder(Login)
_orders = msgspec.json.Decoder(Order)


def with_page(app: AsgiApp, operator_token: str, database: Path) -> AsgiApp:
    """Return an application that serves the page, and leaves all else to another.

    Args:
        app: the service.
        operator_token: a super-admin's key of it.
        database: its SQLite file.
    """
    page = _Page(Shop(app, operator_token, database))

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and f"{scope['path']}/".startswith(f"{_ROOT}/"):
            await page.serve(scope, receive, send)
        else:
            await app(scope, receive, send)

    return answer


class _Page:
    """The addresses of the page."""

    def __init__(self, shop: Shop) -> None:
        self._shop = shop
        folder = files("tollhouse.cli.demo").joinpath(_FOLDER)
        found = {
            f"{_ROOT}/{file.name}": (file.read_bytes(), _TYPES[Path(file.name).suffix]) for file in folder.iterdir()
        }
        found[_ROOT] = found.pop(f"{_ROOT}/{_INDEX}")
        self._files = found
        self._clock = SystemClock()

    async def serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        status, headers, body = await self._answer(scope, receive)
        headers = [*_HEADERS, *headers]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: Scope, receive: Receive) -> tuple[int, Headers, bytes]:
        request_id = new_id("req", self._clock.now_ms())
        try:
            _refuse_others(dict(scope["headers"]))
            body, kind = await self._find(scope["method"], scope["path"].rstrip("/"), receive)
        except Refusal as refusal:
            headers = [_content_type("application/json"), (b"x-request-id", refusal.request_id.encode())]
            return refusal.status, headers, refusal.body
        except TollhouseError as error:
            return error_answer(error, request_id)
        except Exception:  # noqa: BLE001 - a defect here must not leave the page without an answer
            _LOG.exception("a request of the demo's page failed on a defect", request_id=request_id)
            return error_answer(InternalError("something went wrong here; it has been logged"), request_id)
        return 200, [_content_type(kind), (b"content-length", b"%d" % len(body))], body

    async def _find(self, method: str, path: str, receive: Receive) -> tuple[bytes, str]:
        """Return the body of an answer, and of which type it is."""
        if path in self._files:
            _expect(method, "GET")
            return self._files[path]
        return msgspec.json.encode(await self._ask(method, path.removeprefix(_ROOT), receive)), "application/json"

    async def _ask(self, method: str, path: str, receive: Receive) -> Any:
        match path.split("/")[1:]:
            case ["budgets"]:
                _expect(method, "GET")
                return await self._shop.budgets()
            case ["token"]:
                _expect(method, "POST")
                return await self._shop.token(await _read(_logins, receive))
            case ["reports"]:
                _expect(method, "POST")
                return await self._shop.generate(await _read(_orders, receive))
            case ["reports", tenant_id, job_id] if _TENANT_ID.fullmatch(tenant_id) and _JOB_ID.fullmatch(job_id):
                _expect(method, "GET")
                return await self._shop.report(int(tenant_id), job_id)
        raise NotFound(f"there is nothing at {_ROOT}{path}; the page is at {_ROOT}")


def _refuse_others(headers: dict[bytes, bytes]) -> None:
    """Refuse what other pages ask in a visitor's browser, under their own name or, by way of DNS, under ours."""
    host = headers.get(b"host", b"").decode("latin-1")
    if not _is_this_machine(urlsplit(f"//{host}").hostname or ""):
        raise Forbidden("the demo's page is for this machine: open it as http://127.0.0.1 or http://localhost")
    origin = headers.get(b"origin")
    if origin is not None and urlsplit(origin.decode("latin-1")).netloc != host:
        raise Forbidden("the demo's addresses are for its own page")


def _is_this_machine(name: str) -> bool:
    """Whether a name is one that no DNS server has a say in."""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _expect(found: str, method: str) -> None:
    if found != method:
        raise MethodNotAllowed(f"{found} is not served here; expected {method}")


async def _read(decoder: msgspec.json.Decoder[T], receive: Receive) -> T:
    """Return what a body says; raises InvalidRequest."""
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
        if len(body) > _MOST_BODY_BYTES:
            raise InvalidRequest(f"the body is longer than {_MOST_BODY_BYTES} bytes")
    try:
        return decode_json(decoder, body)
    except ValueError as error:
        raise InvalidRequest(str(error)) from None


def _content_type(kind: str) -> tuple[bytes, bytes]:
    return b"content-type", kind.encode()

"""The control plane's ASGI application: administration, usage, health and documents, on Litestar."""

from typing import Any, cast
from urllib.parse import unquote

import msgspec
from litestar import Litestar, Request, Response, Router
from litestar.connection import ASGIConnection
from litestar.datastructures import State
from litestar.di import Provide
from litestar.handlers import BaseRouteHandler
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.spec import Components, License, SecurityScheme
from litestar.plugins import PluginProtocol
from litestar.plugins.core import MsgspecDIPlugin
from litestar.types import ControllerRouterHandler, Guard, Message, Scope

from tollhouse import __version__
from tollhouse.admin.body import ExactRequest
from tollhouse.admin.routes import AuditRoutes, KeyRoutes, TenantRoutes
from tollhouse.admin.service import Administration
from tollhouse.apps.api import AsgiApp
from tollhouse.apps.clients import CLIENTS
from tollhouse.apps.failures import HANDLERS, request_id_of
from tollhouse.apps.health import Health
from tollhouse.apps.models import GoogleModelRoutes, ModelRoutes
from tollhouse.apps.noting import address_of
from tollhouse.apps.openapi import complete, operation_id
from tollhouse.apps.operations import OPERATIONS
from tollhouse.audit.uses import ADMIN_USED, NotableUses
from tollhouse.billing.routes import UsageRoutes
from tollhouse.billing.service import UsageReports
from tollhouse.completions.listing import ModelListing
from tollhouse.completions.wire.registry import api_around
from tollhouse.errors import Forbidden
from tollhouse.jobs.dead_letters import DeadLetters
from tollhouse.jobs.routes import DeadLetterRoutes, JobRoutes, ReportRoutes, ScheduleRoutes
from tollhouse.jobs.scheduling import Schedules
from tollhouse.jobs.service import Jobs
from tollhouse.keys.bearer import client_key
from tollhouse.keys.model import Principal
from tollhouse.keys.service import ADMIN_KEY_ID, Keyring
from tollhouse.kit.clock import Clock
from tollhouse.notifications.routes import EventRoutes
from tollhouse.notifications.service import Notifications
from tollhouse.reconciliation.routes import ReconciliationRoutes
from tollhouse.reconciliation.service import Reconciliation
from tollhouse.telemetry.metrics import Metrics
from tollhouse.webhooks.routes import DeliveryRoutes, WebhookRoutes
from tollhouse.webhooks.service import WebhookAdministration

_MAX_BODY_BYTES = 1024 * 1024
_BEARER = [{"bearer": list[str]()}]
_Connection = ASGIConnection[Any, Any, Any, State]

_FOR_SUPER_ADMINS = (
    TenantRoutes,
    KeyRoutes,
    AuditRoutes,
    ReconciliationRoutes,
    WebhookRoutes,
    DeliveryRoutes,
    DeadLetterRoutes,
)
_OPENAPI = OpenAPIConfig(
    title="Tollhouse",
    version=__version__,
    description="The one service between your microservices and the AI providers: gate, hard budgets, and a ledger.",
    components=Components(security_schemes={"bearer": SecurityScheme(type="http", scheme="bearer")}),
    use_handler_docstrings=True,
    operation_id_creator=operation_id,
    license=License(name="Apache-2.0", identifier="Apache-2.0"),
)


class _ExactResponse(Response[Any]):
    """An answer whose amounts are JSON numbers, digit for digit."""

    _encode = msgspec.json.Encoder(decimal_format="number").encode

    def render(self, content: Any, *_: Any, **__: Any) -> bytes:
        return content if isinstance(content, bytes) else self._encode(content)


class _ControlPlane(Litestar):
    """Litestar, for ids that may hold any character, and without what it would add by itself."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            # Routed as it was sent, so that an id with a slash in it stays one part of the path.
            scope["path"] = scope["raw_path"].decode("latin-1")
        await super().__call__(scope, receive, send)

    @staticmethod
    def _get_default_plugins(plugins: list[PluginProtocol]) -> list[PluginProtocol]:
        # The default ones import pydantic where it is installed: 14 MB that nothing here uses.
        return [*plugins, MsgspecDIPlugin()]

    def register(self, value: ControllerRouterHandler) -> None:  # type: ignore[override]
        # Its own documentation pages load scripts from another server.
        if not (isinstance(value, Router) and value.path == "/schema"):
            super().register(value)


def control_plane(
    *,
    administration: Administration,
    usage: UsageReports,
    reconciliation: Reconciliation,
    jobs: Jobs,
    dead_letters: DeadLetters,
    schedules: Schedules,
    listing: ModelListing,
    notifications: Notifications,
    webhooks: WebhookAdministration,
    keyring: Keyring,
    clock: Clock,
    metrics: Metrics,
    health: Health,
    uses: NotableUses,
) -> AsgiApp:
    """Return the application that serves everything but completions.

    Every address needs a key, unless it says otherwise; those under ``/admin`` need a super-admin's.
    """
    app = _ControlPlane(
        _handlers(),
        guards=[_identified(keyring, uses), _decode_ids],
        dependencies={
            "administration": _provided(administration),
            "usage": _provided(usage),
            "listing": _provided(listing),
            "jobs": _provided(jobs),
            "schedules": _provided(schedules),
            "dead_letters": _provided(dead_letters),
            "webhooks": _provided(webhooks),
            "notifications": _provided(notifications),
            "reconciliation": _provided(reconciliation),
            "health": _provided(health),
            "metrics": _provided(metrics),
            "principal": Provide(_principal, sync_to_thread=False),
        },
        state=State({"clock": clock, "uses": uses}),
        response_class=_ExactResponse,
        request_max_body_size=_MAX_BODY_BYTES,
        exception_handlers=HANDLERS,
        before_send=[_name_request],
        openapi_config=_OPENAPI,
        logging_config=None,
    )
    # The framework's own types of ASGI's messages are narrower than the specification's.
    return cast("AsgiApp", app)


def _provided(part: object) -> Provide:
    return Provide(lambda: part, sync_to_thread=False)


def _handlers() -> list[ControllerRouterHandler]:
    return [
        Router(
            "/",
            route_handlers=_FOR_SUPER_ADMINS,
            guards=[_super_admins],
            request_class=ExactRequest,
            security=_BEARER,
        ),
        Router(
            "/",
            route_handlers=[JobRoutes, ReportRoutes, ScheduleRoutes, EventRoutes],
            request_class=ExactRequest,
            security=_BEARER,
        ),
        Router("/", route_handlers=[UsageRoutes, ModelRoutes, GoogleModelRoutes], security=_BEARER),
        complete,
        *CLIENTS,
        *OPERATIONS,
    ]


def _identified(keyring: Keyring, uses: NotableUses) -> Guard:
    """Return the guard that finds out who calls, before anything of the request is read."""

    def identify(connection: _Connection, handler: BaseRouteHandler) -> None:
        if not handler.opt.get("needs_key", True):
            return
        principal = keyring.identify(client_key(list(connection.scope["headers"])))
        connection.scope["user"] = principal
        if principal.key_id == ADMIN_KEY_ID:
            uses.note(ADMIN_USED, ADMIN_KEY_ID, address=address_of(connection.scope["client"]))

    return identify


def _decode_ids(connection: _Connection, _: BaseRouteHandler) -> None:
    """Decode the parameters of the path, each by itself."""
    scope = connection.scope
    scope["path_params"] = {name: unquote(value) for name, value in scope["path_params"].items()}


def _super_admins(connection: _Connection, _: BaseRouteHandler) -> None:
    if not connection.user.is_super_admin:
        raise Forbidden("administration needs a super-admin key")


def _principal(request: Request[Principal, Any, State]) -> Principal:
    return request.user


async def _name_request(message: Message, scope: Scope) -> None:
    """Put the id under which the log knows a request on its answer."""
    if message["type"] == "http.response.start":
        request_id = request_id_of(scope).encode()
        names = [b"x-request-id"]
        api = api_around(scope["path"], scope["headers"])
        if api is not None and api.name == "messages":
            # Anthropic's clients look for it there.
            names.append(b"request-id")
        message["headers"] = [*message["headers"], *((name, request_id) for name in names)]

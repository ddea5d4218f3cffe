"""The operator's addresses. They need no key, since they reveal nothing of any tenant and hold no secret."""

from typing import Any

import msgspec
from litestar import Litestar, MediaType, Request, Response, get
from litestar.datastructures import State
from litestar.di import NamedDependency
from litestar.openapi.datastructures import ResponseSpec

from tollhouse.apps.docs import page
from tollhouse.apps.health import Health, HealthReport
from tollhouse.apps.openapi import document
from tollhouse.errors import Unavailable
from tollhouse.telemetry.metrics import Metrics

_Service = NamedDependency[Health]
_Request = Request[Any, Any, State]

# The option of an address that is open to everybody.
_PUBLIC = {"needs_key": False}
# The framework adds the character set.
_EXPOSITION = "text/plain; version=0.0.4"
_RETRY_AFTER_S = 1.0
# The page needs its own style sheet, and nothing from anywhere.
_HTML_HEADERS = {"content-security-policy": "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'"}
_UNHEALTHY = ResponseSpec(HealthReport, generate_examples=False, description="The ledger cannot be written")


class Status(msgspec.Struct, frozen=True):
    """A probe's answer."""

    status: str


@get("/livez", tags=("Operations",), opt=_PUBLIC)
async def livez() -> Status:
    """Tell that the process runs."""
    return Status("ok")


@get("/readyz", tags=("Operations",), opt=_PUBLIC)
async def readyz(health: _Service) -> Status:
    """Tell whether the ledger can be written, found by writing; 503 when it cannot."""
    if not await health.is_ready():
        raise Unavailable("the ledger cannot be written", retry_after_s=_RETRY_AFTER_S)
    return Status("ready")


@get("/health", tags=("Operations",), opt=_PUBLIC, responses={503: _UNHEALTHY})
async def get_health(health: _Service) -> Response[HealthReport]:
    """Return the state of database, memory and providers, found without a billed call; 503 when unhealthy."""
    report = await health.report()
    return Response(report, status_code=503 if report.status == "unhealthy" else 200)


@get("/metrics", tags=("Operations",), opt=_PUBLIC, media_type=_EXPOSITION)
async def get_metrics(health: _Service, metrics: NamedDependency[Metrics]) -> bytes:
    """Return the metrics in Prometheus' text format."""
    metrics.unwritten_endings = health.unwritten_endings
    return metrics.exposition()


@get("/openapi.json", include_in_schema=False, opt=_PUBLIC, media_type=MediaType.JSON)
async def get_openapi(request: _Request) -> bytes:
    """Return the OpenAPI document."""
    return _documents(request.app)[0]


@get("/docs", include_in_schema=False, opt=_PUBLIC, media_type=MediaType.HTML, response_headers=_HTML_HEADERS)
async def get_docs(request: _Request) -> bytes:
    """Return the documentation page."""
    return _documents(request.app)[1]


def _documents(app: Litestar) -> tuple[bytes, bytes]:
    """Return both forms of the documentation, made when somebody first asks."""
    if "documents" not in app.state:
        found = document(app)
        app.state["documents"] = (msgspec.json.encode(found), page(found).encode())
    documents: tuple[bytes, bytes] = app.state["documents"]
    return documents


OPERATIONS = (livez, readyz, get_health, get_metrics, get_openapi, get_docs)

"""The addresses of jobs and reports. Who may see one is decided by the service, not here."""

from typing import Annotated, Any, Literal

from litestar import Controller, Request, Response, delete, get, post
from litestar.datastructures import State
from litestar.di import NamedDependency
from litestar.params import FromPath, HeaderParameter, JSONBody, QueryParameter

from tollhouse.errors import Forbidden, InvalidRequest
from tollhouse.jobs.body import Accepted, JobBody, JobPage, JobStatus, KnownJob, ReportBody, ReportStatus
from tollhouse.jobs.dead_letters import DeadLetters
from tollhouse.jobs.model import REPORTS_QUEUE
from tollhouse.jobs.results import Download
from tollhouse.jobs.scheduling import Schedule, ScheduleBody, ScheduleList, Schedules
from tollhouse.jobs.service import Jobs, Reader
from tollhouse.keys.model import Principal
from tollhouse.kit.headers import single_value
from tollhouse.kit.validation import MAX_ID, printable

MAX_BODY_BYTES = 10 * 1024 * 1024
_MAX_PAGE = 500

_Service = NamedDependency[Jobs]
_Caller = NamedDependency[Principal]
_Request = Request[Principal, Any, State]
_Key = Annotated[
    str | None,
    HeaderParameter(
        name="Idempotency-Key",
        max_length=255,
        description="asked again under the same key, it is the same job",
    ),
]
_Partial = Annotated[bool, QueryParameter(description="of a job of many completions: those that are there by now")]


class JobRoutes(Controller):
    """Completions that are made later."""

    path = "/ai/jobs"
    tags = ("Jobs",)
    request_max_body_size = MAX_BODY_BYTES

    @post(status_code=202)
    async def submit_job(
        self, jobs: _Service, principal: _Caller, data: JSONBody[JobBody], idempotency_key: _Key = None
    ) -> Accepted:
        """Queue a completion, which a worker makes as soon as it is its turn."""
        return await jobs.submit(principal, data, idempotency_key)

    @get("/{job_id:str}")
    async def get_job(self, request: _Request, jobs: _Service, job_id: FromPath[str]) -> JobStatus:
        """Return where a job is, and its answer once there is one; X-Tenant-Id and X-User-Id say whose it has to be."""
        return await jobs.status(_reader(request), job_id)

    @get("/{job_id:str}/download")
    async def download_job(
        self, request: _Request, jobs: _Service, job_id: FromPath[str], partial: _Partial = False
    ) -> Response[bytes]:
        """Return the answer alone, as a file."""
        return _file(await jobs.download(_reader(request), job_id, is_partial=partial))

    @delete("/{job_id:str}", status_code=200)
    async def cancel_job(self, request: _Request, jobs: _Service, job_id: FromPath[str]) -> JobStatus:
        """Cancel what of a job has not been started."""
        return await jobs.cancel(_reader(request), job_id)


class ReportRoutes(Controller):
    """Reports made from templates."""

    path = "/reports"
    tags = ("Reports",)
    request_max_body_size = MAX_BODY_BYTES

    @post("/generate", status_code=202)
    async def generate_report(
        self, jobs: _Service, principal: _Caller, data: JSONBody[ReportBody], idempotency_key: _Key = None
    ) -> Accepted:
        """Queue a report made from a template."""
        return await jobs.generate(principal, data, idempotency_key)

    @get("/{job_id:str}/status")
    async def get_report(self, request: _Request, jobs: _Service, job_id: FromPath[str]) -> ReportStatus:
        """Return where a report is; X-Tenant-Id and X-User-Id say whose it has to be."""
        return await jobs.report(_reader(request), job_id)

    @get("/{job_id:str}/download")
    async def download_report(
        self, request: _Request, jobs: _Service, job_id: FromPath[str], partial: _Partial = False
    ) -> Response[bytes]:
        """Return a report as a file: text, Markdown or JSON."""
        return _file(await jobs.download(_reader(request), job_id, REPORTS_QUEUE, is_partial=partial))


class ScheduleRoutes(Controller):
    """Jobs and reports that are asked for again and again."""

    path = "/ai/schedules"
    tags = ("Jobs",)
    request_max_body_size = MAX_BODY_BYTES

    @post(status_code=201)
    async def create_schedule(
        self, schedules: NamedDependency[Schedules], principal: _Caller, data: JSONBody[ScheduleBody]
    ) -> Schedule:
        """Have a job or a report asked for whenever a cron expression says."""
        return await schedules.add(principal, data)

    @get()
    async def list_schedules(
        self,
        request: _Request,
        schedules: NamedDependency[Schedules],
        tenant_id: Annotated[
            str | None, QueryParameter(description="by default the key's only tenant; a super-admin's are all")
        ] = None,
    ) -> ScheduleList:
        """Return a tenant's schedules."""
        asked = tenant_id or request.user.only_tenant
        if asked is None and not request.user.is_super_admin:
            raise InvalidRequest("tenant_id: is required, as this key is not bound to one tenant")
        return await schedules.of_tenant(_reader(request), asked)

    @get("/{schedule_id:str}")
    async def get_schedule(
        self, request: _Request, schedules: NamedDependency[Schedules], schedule_id: FromPath[str]
    ) -> Schedule:
        """Return a schedule."""
        return await schedules.get(_reader(request), schedule_id)

    @delete("/{schedule_id:str}")
    async def delete_schedule(
        self, request: _Request, schedules: NamedDependency[Schedules], schedule_id: FromPath[str]
    ) -> None:
        """Forget a schedule; the jobs that it made go on."""
        await schedules.remove(_changing(request), schedule_id)


class DeadLetterRoutes(Controller):
    """All jobs, and what is done about those that failed. Whoever mounts it lets super-admins alone through."""

    path = "/admin/jobs"
    tags = ("Jobs",)

    @get()
    async def list_jobs(
        self,
        dead_letters: NamedDependency[DeadLetters],
        status: Annotated[
            Literal["queued", "processing", "complete", "failed", "cancelled"] | None,
            QueryParameter(description="failed: the dead letters"),
        ] = None,
        tenant_id: Annotated[str | None, QueryParameter(description="only this tenant's")] = None,
        before_id: Annotated[str | None, QueryParameter(description="only those before this one")] = None,
        limit: Annotated[int, QueryParameter(ge=1, le=_MAX_PAGE)] = 100,
    ) -> JobPage:
        """Return jobs, the newest first, without what was asked and answered."""
        return await dead_letters.page(state=status, tenant_id=tenant_id, before_id=before_id, limit=limit)

    @get("/{job_id:str}")
    async def inspect_job(self, dead_letters: NamedDependency[DeadLetters], job_id: FromPath[str]) -> KnownJob:
        """Return what is known of a job, without what was asked and answered."""
        return await dead_letters.get(job_id)

    @post("/{job_id:str}/retry", status_code=200)
    async def retry_job(
        self, dead_letters: NamedDependency[DeadLetters], principal: _Caller, job_id: FromPath[str]
    ) -> KnownJob:
        """Have done again what failed of a job: as a new call, which may be paid again."""
        return await dead_letters.retry(job_id, principal.key_id)

    @delete("/{job_id:str}")
    async def drop_job(
        self, dead_letters: NamedDependency[DeadLetters], principal: _Caller, job_id: FromPath[str]
    ) -> None:
        """Forget a job that is over, with its result."""
        await dead_letters.drop(job_id, principal.key_id)


def _reader(request: _Request) -> Reader:
    headers = list(request.scope["headers"])
    return Reader(request.user, _named(headers, "X-Tenant-Id"), _named(headers, "X-User-Id"))


def _changing(request: _Request) -> Reader:
    """Return who changes something; raises Forbidden."""
    if not request.user.may_complete:
        raise Forbidden("this key may read, but not change schedules: its role is reader")
    return _reader(request)


def _named(headers: list[tuple[bytes, bytes]], name: str) -> str | None:
    """Return whom a header names, if it was sent; raises InvalidRequest."""
    try:
        value = single_value(headers, name.lower().encode())
        return None if value is None else printable(name, value.decode("latin-1"), MAX_ID)
    except ValueError as error:
        raise InvalidRequest(str(error)) from None


def _file(download: Download) -> Response[bytes]:
    return Response(
        download.body,
        media_type=download.media_type,
        headers={
            "content-disposition": f'attachment; filename="{download.filename}"',
            # What a model wrote is nothing for a browser to guess at, or to keep.
            "x-content-type-options": "nosniff",
            "cache-control": "private, no-store",
        },
    )

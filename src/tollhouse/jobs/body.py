"""What callers send about jobs, and what they see of them."""

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from tollhouse.completions.model import CompleteBody
from tollhouse.jobs.model import Job, State, result_path
from tollhouse.kit.ids import id_value
from tollhouse.kit.validation import OutsideId

MAX_PRIORITY = 100

_Priority = Annotated[
    int, Meta(ge=-MAX_PRIORITY, le=MAX_PRIORITY, description="orders the tenant's own jobs; the highest comes first")
]
_WebhookUrl = Annotated[
    Annotated[str, Meta(max_length=2048)] | None, Meta(description="where to be told, signed, once it is over")
]


class JobBody(CompleteBody, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The body of ``POST /ai/jobs``: a completion call's, but for ``stream``."""

    priority: _Priority = 0
    webhook_url: _WebhookUrl = None


class ReportBody(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The body of ``POST /reports/generate``.

    ``params`` are the template's: ``template`` names it, and the others are what it has a place for.
    """

    params: Annotated[dict[str, Any], Meta(description="the template's name, and its data")]
    tenant_id: Annotated[OutsideId | None, Meta(description="who pays; by default the key's only tenant")] = None
    user_id: Annotated[OutsideId | None, Meta(description="who asked, and may read it")] = None
    model: Annotated[
        Annotated[str, Meta(min_length=1, max_length=256)] | None, Meta(description="by default the configured one")
    ] = None
    priority: _Priority = 0
    webhook_url: _WebhookUrl = None


class Accepted(msgspec.Struct, frozen=True):
    """A job was queued; asked for again under its ``Idempotency-Key``, ``status`` is where it is by now."""

    job_id: str
    status: State


class Progress(msgspec.Struct, frozen=True):
    """How far a job of many completions is."""

    total: int
    complete: int
    failed: int


class ReportStatus(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where a report is. What does not apply is left out.

    ``error`` is a code and ``message`` a sentence, once it has failed. ``attempts`` counts its starts.
    """

    job_id: str
    status: State
    attempts: int
    created_at: str
    started_at: str | None = None
    finished_at: str | None = None
    expires_at: Annotated[str | None, Meta(description="when it is forgotten, with its result")] = None
    progress: Progress | None = None
    download_url: str | None = None
    error: str | None = None
    message: str | None = None


class JobStatus(ReportStatus, frozen=True, kw_only=True, omit_defaults=True):
    """Where a job is, and what came of it. What does not apply is left out."""

    tenant_id: int | str
    model: str
    feature_slug: str
    user_id: int | str | None = None
    template: str | None = None
    result: Annotated[
        msgspec.Raw | None, Meta(description="once it is complete: the answer, as POST /ai/complete gives it")
    ] = None


class KnownJob(JobStatus, frozen=True, kw_only=True, omit_defaults=True):
    """A job as operators see it: without what was asked, and what was answered."""

    service: str
    priority: int = 0
    crashes: Annotated[int, Meta(description="workers that ended while they ran it alone")] = 0
    interruptions: Annotated[int, Meta(description="workers that ended while they ran it beside others")] = 0
    delays: Annotated[int, Meta(description="how often in a row it was put off without using up a try")] = 0
    worker_runs: Annotated[int, Meta(description="how often it was claimed")] = 0


class JobPage(msgspec.Struct, frozen=True):
    """Jobs, the newest first; ``next_before_id`` asks for those before them."""

    jobs: list[KnownJob]
    next_before_id: str | None


def report_status(job: Job) -> ReportStatus:
    """Return what the caller sees of a report."""
    return ReportStatus(**_status(job))


def job_status(job: Job, result: bytes | None) -> JobStatus:
    """Return what the caller sees of a job.

    Args:
        result: the answer's JSON, once there is one.
    """
    return JobStatus(**_status(job), **_whose(job), result=None if result is None else msgspec.Raw(result))


def known_job(job: Job) -> KnownJob:
    """Return what an operator sees of a job."""
    return KnownJob(
        **_status(job),
        **_whose(job),
        service=job.service,
        priority=-job.rank,
        crashes=job.crashes,
        interruptions=job.interruptions,
        delays=job.delays,
        worker_runs=job.run,
    )


def _status(job: Job) -> dict[str, Any]:
    return {
        "job_id": job.job_id,
        "status": job.state,
        "attempts": job.attempts,
        "created_at": job.created_at,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
        "expires_at": job.expires_at,
        "progress": Progress(job.parts, job.parts_complete, job.parts_failed) if job.parts else None,
        "download_url": result_path(job) if job.state == "complete" else None,
        "error": job.error_code or None,
        "message": job.error_message or None,
    }


def _whose(job: Job) -> dict[str, Any]:
    return {
        "tenant_id": id_value(job.tenant_id),
        "user_id": id_value(job.user_id) if job.user_id else None,
        "model": job.model,
        "feature_slug": job.feature_slug,
        "template": job.template or None,
    }

"""What a job is, from its submission to its end."""

from typing import Any, Literal

import msgspec

from tollhouse.events.model import NewEvent

State = Literal["queued", "processing", "complete", "failed", "cancelled"]
Output = Literal["text", "json", "markdown"]

JOBS_QUEUE = "ai-jobs"
REPORTS_QUEUE = "ai-reports"


class Failure(msgspec.Struct, frozen=True):
    """Why a job failed: a code of the public contract, and a sentence without prompt or answer.

    Attributes:
        said: what the provider said, which may repeat the prompt: it is kept sealed, for who may see the answer.
    """

    code: str
    message: str
    said: str = ""


class Part(msgspec.Struct, frozen=True):
    """One of the completions of a job that has many."""

    job_id: str
    sealed_request: bytes


class NewJob(msgspec.Struct, frozen=True, kw_only=True):
    """A job to be queued.

    Attributes:
        service: the service that asks for it, with which key.
        template: the report's template; "" for a plain completion.
        sealed_request: the call to be made; None for a job with parts, which have theirs.
        parts: its completions, where it is not a single one.
        claim_id: whose Idempotency-Key it was asked for under; None: without one.
        body_digest: a keyed digest of what was asked, to tell another body under the same key.
    """

    job_id: str
    queue: str
    tenant_id: str
    user_id: str
    feature_slug: str
    model: str
    service: str
    key_id: str
    created_at: str
    sealed_request: bytes | None
    template: str = ""
    output: Output = "text"
    priority: int = 0
    webhook_url: str = ""
    parts: tuple[Part, ...] = ()
    claim_id: str | None = None
    body_digest: str = ""

    @property
    def completions(self) -> int:
        """How many calls it comes to."""
        return len(self.parts) or 1


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """A job on record, but for what was asked and what came of it.

    Attributes:
        parent_id: the job that it is a part of, or "".
        attempts: how often it was started, less the starts that were given back.
        crashes: how many of them ended with their worker, which ran nothing else.
        interruptions: how many workers ended that ran it beside others; such starts are given back.
        delays: how often in a row it was put off without having used up a try.
        generation: how often its call was replaced by a new one.
        run: the number of its latest claim.
        parts: how many it has; 0: it is a single completion.
    """

    job_id: str
    parent_id: str
    position: int
    queue: str
    tenant_id: str
    user_id: str
    feature_slug: str
    model: str
    service: str
    key_id: str
    template: str
    output: Output
    rank: int
    state: State
    attempts: int
    crashes: int
    interruptions: int
    delays: int
    generation: int
    run: int
    parts: int
    parts_complete: int
    parts_failed: int
    error_code: str
    error_message: str
    webhook_url: str
    body_digest: str
    created_at: str
    started_at: str | None
    finished_at: str | None
    expires_at: str | None

    @property
    def tries(self) -> int:
        """How many tries it has used up: a start that ended with its worker is none."""
        return self.attempts - self.crashes

    @property
    def idempotency_key(self) -> str:
        """The key of its call to the AI Service: the same for each try of a call, another one for a new call."""
        return f"{self.job_id}.{self.generation}" if self.generation else self.job_id

    @property
    def is_over(self) -> bool:
        return self.state in {"complete", "failed", "cancelled"}

    def is_kept(self, now: str) -> bool:
        """Whether its time has not come: what is over is deleted a while later, and is not there from that moment."""
        return self.expires_at is None or self.expires_at > now


class Claimed(msgspec.Struct, frozen=True):
    """A job that is this worker's for now, with the sealed call to be made."""

    job: Job
    sealed_request: bytes


def event_of(job: Job, what: str, at_ms: int) -> NewEvent:
    """Return the event that a job reached a state, or went on.

    Args:
        what: the last word of the event's type.
        at_ms: when, in milliseconds since the Unix epoch.
    """
    data: dict[str, Any] = {"job_id": job.job_id, "status": job.state, "attempts": job.attempts}
    if job.parts:
        data["progress"] = {"total": job.parts, "complete": job.parts_complete, "failed": job.parts_failed}
    if job.error_code:
        data |= {"error": job.error_code, "message": job.error_message}
    is_report = job.queue == REPORTS_QUEUE
    if job.state == "complete":
        data["download_url"] = result_path(job)
    kind = "report" if is_report and what == "completed" else "job"
    # Whoever asked to be called wants to hear of the end alone.
    webhook_url = job.webhook_url if job.is_over else ""
    return NewEvent(f"ai.{kind}.{what}", job.tenant_id, job.user_id, job.job_id, data, at_ms, webhook_url)


def result_path(job: Job) -> str:
    """Return where a job's result is downloaded."""
    collection = "/reports" if job.queue == REPORTS_QUEUE else "/ai/jobs"
    return f"{collection}/{job.job_id}/download"

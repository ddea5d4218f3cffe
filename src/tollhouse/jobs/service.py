"""Asking for jobs and reports, and reading what came of them."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec
import sqlalchemy as sa

from tollhouse.budgets import store as budgets
from tollhouse.budgets.model import budget_keys
from tollhouse.completions.call import Whose, feature_of, tenant_of
from tollhouse.completions.decoding import check
from tollhouse.completions.model import CompleteBody
from tollhouse.config.rules import is_base_url
from tollhouse.errors import BudgetExceeded, Conflict, Forbidden, InvalidRequest, NotFound
from tollhouse.jobs import lookup, results
from tollhouse.jobs.body import (
    Accepted,
    JobBody,
    JobStatus,
    ReportBody,
    ReportStatus,
    job_status,
    report_status,
)
from tollhouse.jobs.model import JOBS_QUEUE, REPORTS_QUEUE, Job, NewJob, Output, Part
from tollhouse.jobs.queue import JobQueue
from tollhouse.jobs.results import Download
from tollhouse.jobs.sealing import Seal, digest
from tollhouse.jobs.templating import DEFAULT_TEMPLATE, Templates
from tollhouse.keys.model import Principal
from tollhouse.kit.clock import Clock, billing_period, utc_text
from tollhouse.kit.ids import id_text, new_id
from tollhouse.kit.money import usd
from tollhouse.storage.database import Database
from tollhouse.tenants import store as tenants
from tollhouse.webhooks.destination import Network, Refused, refuse_at_once

MAX_IDEMPOTENCY_KEY = 255
_PLANNED_AT_ONCE = 20
_encode = msgspec.json.Encoder().encode


class Plan(Protocol):
    """Checks a call without making it."""

    def __call__(self, body: CompleteBody, principal: Principal) -> int:
        """Return the most that the call can cost, in nano-USD; raises TollhouseError where it would be refused."""


class ReportRules(msgspec.Struct, frozen=True):
    """What reports are made with.

    Attributes:
        try_timeout_s: how long one try of any job may take, unless it says so itself.
    """

    model: str = "claude-haiku-4-5"
    max_tokens: int = 2000
    feature_slug: str = "report-generation"
    max_rows: int = 1000
    try_timeout_s: float = 60


class Reader(msgspec.Struct, frozen=True):
    """Who asks about a job: a key, and whom its service says it asks for.

    Attributes:
        tenant_id: None where it did not say.
        user_id: None where it did not say.
    """

    principal: Principal
    tenant_id: str | None = None
    user_id: str | None = None

    def may_see(self, job: Job) -> bool:
        return (
            self.principal.may_act_for(job.tenant_id)
            and self.tenant_id in {None, job.tenant_id}
            and self.user_id in {None, job.user_id}
        )


class Jobs:
    """Jobs and reports of callers.

    Args:
        digest_key: tells apart what was asked for under idempotency keys.
        networks: those that webhooks may go to though they are not public.
        plan: None where calls are not checked before they are made, as by commands.
    """

    def __init__(
        self,
        database: Database,
        queue: JobQueue,
        seal: Seal,
        digest_key: bytes,
        clock: Clock,
        templates: Templates,
        rules: ReportRules,
        plan: Plan | None = None,
        networks: Sequence[Network] = (),
    ) -> None:
        self._database = database
        self._queue = queue
        self._seal = seal
        self._digest_key = digest_key
        self._clock = clock
        self._templates = templates
        self._rules = rules
        self._plan = plan
        self._networks = networks

    async def submit(self, principal: Principal, body: JobBody, idempotency_key: str | None) -> Accepted:
        """Queue a completion.

        Raises:
            TollhouseError: what the call itself would be refused for, as far as that is known now.
        """
        return await self._add(principal, body, idempotency_key)

    async def generate(self, principal: Principal, body: ReportBody, idempotency_key: str | None) -> Accepted:
        """Queue a report; raises as ``submit``, and BudgetExceeded where its completions do not all fit the budget."""
        return await self._add(principal, body, idempotency_key)

    def checked(self, principal: Principal, body: JobBody | ReportBody) -> NewJob:
        """Return the job that a body asks for; raises TollhouseError for what would be refused if it were made now."""
        new, calls = self.of_body(principal, body)
        self._check_first(principal, new, calls)
        return new

    def of_body(self, principal: Principal, body: JobBody | ReportBody) -> tuple[NewJob, Sequence[CompleteBody]]:
        """Return the job that a body asks for, and its calls; raises TollhouseError for what cannot be meant.

        It may be called in any thread, as by the transaction that fires a schedule.
        """
        if isinstance(body, JobBody):
            if body.stream:
                raise InvalidRequest("stream: a job's answer is stored whole; leave it out")
            fields = msgspec.structs.asdict(body)
            del fields["priority"], fields["webhook_url"]
            calls = [CompleteBody(**fields)]
            new = self._new_job(principal, calls, JOBS_QUEUE, "", "json" if body.response_schema else "text")
        else:
            new, calls = self._report(principal, body)
        url = _checked_url(body.webhook_url)
        return msgspec.structs.replace(new, priority=body.priority, webhook_url=url), calls

    def _report(self, principal: Principal, body: ReportBody) -> tuple[NewJob, list[CompleteBody]]:
        name = body.params.get("template", DEFAULT_TEMPLATE)
        if not isinstance(name, str):
            raise InvalidRequest("params.template: expected the name of a template")
        template = self._templates.get(name).content
        rules = self._rules
        calls = [
            CompleteBody(
                model=body.model or rules.model,
                tenant_id=body.tenant_id,
                user_id=body.user_id,
                feature_slug=rules.feature_slug,
                system_prompt=prompt.system_prompt or None,
                user_message=prompt.user_message,
                max_tokens=template.max_tokens or rules.max_tokens,
                response_schema=prompt.response_schema,
            )
            for prompt in self._templates.get(name).prompts(body.params, rules.max_rows)
        ]
        has_parts = bool(template.for_each)
        return self._new_job(principal, calls, REPORTS_QUEUE, name, template.output, has_parts=has_parts), calls

    def _new_job(
        self,
        principal: Principal,
        calls: Sequence[CompleteBody],
        queue: str,
        template: str,
        output: Output,
        *,
        has_parts: bool = False,
    ) -> NewJob:
        """Return the job that makes calls, of which the first one stands for all."""
        first = calls[0]
        check(first)
        user_id = "" if first.user_id is None else id_text(first.user_id)
        whose = Whose(None if first.tenant_id is None else id_text(first.tenant_id), user_id, first.feature_slug)
        tenant_id, feature_slug = tenant_of(whose, principal), feature_of(whose, principal)
        if not feature_slug:
            raise InvalidRequest("feature_slug: is required, as this key has no feature of its own")
        now_ms = self._clock.now_ms()
        job_id = new_id("job", now_ms)
        # Another key makes the call: what this one supplies is written into it.
        own = {
            "tenant_id": tenant_id,
            "feature_slug": feature_slug,
            # Part of what is asked under the job's idempotency key, so that it must not change from try to try.
            "timeout_s": first.timeout_s or self._rules.try_timeout_s,
        }
        requests = [_encode(msgspec.structs.replace(call, **own)) for call in calls]
        parts = [f"{job_id}.{number:05}" for number in range(1, len(calls) + 1)] if has_parts else []
        return NewJob(
            job_id=job_id,
            queue=queue,
            tenant_id=tenant_id,
            user_id=user_id,
            feature_slug=feature_slug,
            model=first.model,
            service=principal.service,
            key_id=principal.key_id,
            created_at=utc_text(now_ms),
            sealed_request=None if has_parts else self._seal.seal(job_id, requests[0]),
            template=template,
            output=output,
            parts=tuple(
                Part(part, self._seal.seal(part, request)) for part, request in zip(parts, requests, strict=False)
            ),
        )

    def _check_first(self, principal: Principal, new: NewJob, calls: Sequence[CompleteBody]) -> None:
        """Check where a job's end is told, and its first call, in the event loop; raises TollhouseError as refused."""
        if new.webhook_url:
            try:
                refuse_at_once(new.webhook_url, self._networks)
            except (ValueError, Refused) as error:
                raise InvalidRequest(f"webhook_url: {error}") from None
        if self._plan is not None:
            self._plan(calls[0], principal)

    async def _check_budget(self, principal: Principal, new: NewJob, calls: Sequence[CompleteBody]) -> None:
        """Refuse what would stop in the middle: all its completions have to fit what is left of each budget."""
        if self._plan is None:
            return
        ceiling = 0
        for number, call in enumerate(calls):
            ceiling += self._plan(call, principal)
            if number % _PLANNED_AT_ONCE == 0:
                # Whatever else this process serves is not to wait for all of them.
                await asyncio.sleep(0)
        left = await self._database.read(
            lambda connection: room_nano_usd(connection, new, billing_period(self._clock.now_ms()))
        )
        if left is not None and ceiling > left:
            raise BudgetExceeded(
                f"{len(calls)} completions may cost up to {usd(ceiling)} USD in all, and {usd(max(left, 0))} USD are "
                "left of the budget; ask for fewer rows or fewer tokens, or raise the budget"
            )

    async def _add(self, principal: Principal, body: JobBody | ReportBody, idempotency_key: str | None) -> Accepted:
        new, calls = self.of_body(principal, body)
        job = None
        if idempotency_key is not None:
            new = self._claiming(principal, new, _encode(body), idempotency_key)
            # Before anything that may have changed since: a job that was accepted is not refused when asked for again.
            claimed = new
            job = await self._database.read(lambda connection: self._queue.asked_before(connection, claimed))
        if job is None:
            self._check_first(principal, new, calls)
            if new.parts:
                await self._check_budget(principal, new, calls)
            job = await self._queue.add(new)
        return Accepted(job.job_id, job.state)

    def _claiming(self, principal: Principal, new: NewJob, asked: bytes, idempotency_key: str) -> NewJob:
        """Return a job with the claim on its Idempotency-Key; raises InvalidRequest."""
        if not 0 < len(idempotency_key) <= MAX_IDEMPOTENCY_KEY or not idempotency_key.isprintable():
            raise InvalidRequest(f"Idempotency-Key: expected 1 to {MAX_IDEMPOTENCY_KEY} printable characters")
        claim_id = digest(self._digest_key, new.queue, principal.key_id, new.tenant_id, idempotency_key)
        return msgspec.structs.replace(new, claim_id=claim_id, body_digest=digest(self._digest_key, asked))

    async def status(self, reader: Reader, job_id: str) -> JobStatus:
        """Return where a job is, and its result once it is complete, unless the key may read alone; raises NotFound."""
        job, result, _ = await self._database.read(self._seen_by(reader, job_id))
        job, answer = self._opened(reader, job, result)
        return job_status(job, answer)

    async def report(self, reader: Reader, job_id: str) -> ReportStatus:
        """Return where a report is; raises NotFound."""
        job, result, _ = await self._database.read(self._seen_by(reader, job_id, REPORTS_QUEUE))
        job, _ = self._opened(reader, job, result)
        return report_status(job)

    async def download(
        self, reader: Reader, job_id: str, queue: str | None = None, *, is_partial: bool = False
    ) -> Download:
        """Return a result as a file.

        Args:
            is_partial: what there is by now, of a job of many completions.

        Raises:
            NotFound: there is no such job.
            Conflict: there is no result, or not all of it yet.
            Forbidden: the key's role does not allow it.
        """
        _require_content(reader)
        job, result, parts = await self._database.read(self._seen_by(reader, job_id, queue, with_parts=True))
        if job.state != "complete" and not (is_partial and job.parts):
            hint = "; ?partial=true returns the rows that are there" if job.parts else ""
            raise Conflict(f"{job_id} is {job.state}, and has no result to download{hint}")
        if job.parts:
            return results.rows(job, [self._opened(reader, part, sealed) for part, sealed in parts])
        assert result is not None, "what is complete has a result"
        return results.whole(job, self._seal.open(job.job_id, result))

    def _opened(self, reader: Reader, job: Job, sealed: bytes | None) -> tuple[Job, bytes | None]:
        """Return a job and its answer, as far as who asks may see them; one that failed has what the provider said."""
        if sealed is None or not reader.principal.may_complete:
            return job, None
        opened = self._seal.open(job.job_id, sealed)
        if job.state == "failed":
            return msgspec.structs.replace(job, error_message=opened.decode()), None
        return job, opened

    async def cancel(self, reader: Reader, job_id: str) -> JobStatus:
        """End what of a job has not been started; raises NotFound, Conflict, Forbidden."""
        if not reader.principal.may_complete:
            raise Forbidden("this key may read, but not change jobs: its role is reader")
        await self._database.read(self._seen_by(reader, job_id))
        return job_status(await self._queue.cancel(job_id), None)

    def _seen_by(
        self, reader: Reader, job_id: str, queue: str | None = None, *, with_parts: bool = False
    ) -> Callable[[sa.Connection], tuple[Job, bytes | None, Sequence[tuple[Job, bytes | None]]]]:
        """Return what reads a job that somebody may see; to others it does not exist."""

        def work(connection: sa.Connection) -> tuple[Job, bytes | None, Sequence[tuple[Job, bytes | None]]]:
            job = lookup.find(connection, job_id)
            if (
                job is None
                or not job.is_kept(utc_text(self._clock.now_ms()))
                or job.parent_id
                or queue not in {None, job.queue}
                or not reader.may_see(job)
            ):
                raise NotFound(f"there is no job {job_id[:80]}, or it is kept no longer")
            _, result = lookup.sealed(connection, job_id)
            return job, result, lookup.parts_of(connection, job_id) if with_parts and job.parts else ()

        return work


def room_nano_usd(connection: sa.Connection, job: NewJob, period: str) -> int | None:
    """Return what is left of the budget that has the least left for a job, in nano-USD; None where none is set."""
    rooms = []
    for key in budget_keys(job.tenant_id, period, job.user_id, job.feature_slug, job.key_id):
        budget = budgets.budget(connection, key)
        if budget is not None:
            rooms.append(budget.left_nano_usd)
        elif key.scope == "tenant":
            module = tenants.find(connection, job.tenant_id)
            # Nothing was spent in a month without a row.
            rooms += [] if module is None else [module.budget_nano_usd]
        elif (cap := budgets.standing_cap(connection, key)) is not None:
            rooms.append(cap)
    return min(rooms, default=None)


def _require_content(reader: Reader) -> None:
    if not reader.principal.may_complete:
        raise Forbidden("this key may read where a job is, but not its result: its role is reader")


def _checked_url(url: str | None) -> str:
    if url is not None and not is_base_url(url):
        raise InvalidRequest(
            "webhook_url: expected an http:// or https:// URL with a host, without user name or fragment"
        )
    return url or ""

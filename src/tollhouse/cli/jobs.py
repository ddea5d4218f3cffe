"""``tollhouse jobs``: what is queued, and what is done about jobs that failed."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

import click

from tollhouse.cli.options import Group, Options

_PAGE = 500
_STATUSES = ("queued", "processing", "complete", "failed", "cancelled")
_HEADINGS = ("JOB", "STATUS", "TENANT", "FEATURE", "ATTEMPTS", "PARTS", "ASKED FOR", "ERROR")


@click.group(cls=Group)
def jobs() -> None:
    """Look at jobs, and have those that failed done again, or dropped.

    What was asked and answered is not shown.
    """


@jobs.command("list")
@click.option("--status", type=click.Choice(_STATUSES), help="Only these; failed: the dead letters.")
@click.option("--tenant", "tenant_id", metavar="ID", help="Only this tenant's.")
@click.option("--limit", type=click.IntRange(min=1), default=50, show_default=True, help="How many at most.")
@click.pass_obj
def list_jobs(options: Options, status: str | None, tenant_id: str | None, limit: int) -> None:
    """List jobs, the newest first."""
    from tollhouse.cli.output import print_json, print_table
    from tollhouse.cli.session import open_session

    query = {"status": status, "tenant_id": tenant_id, "limit": min(limit, _PAGE)}
    with open_session(options) as session:
        found = session.pages("/admin/jobs", "jobs", query, cursor=("before_id", "next_before_id"), most=limit)
    if options.as_json:
        print_json({"jobs": found})
    else:
        print_table(_HEADINGS, map(_row, found), when_empty="No such jobs.")


@jobs.command()
@click.argument("job_id")
@click.pass_obj
def show(options: Options, job_id: str) -> None:
    """Show what is known of a job."""
    from tollhouse.cli.output import print_json
    from tollhouse.cli.session import open_session

    with open_session(options) as session:
        found = session.request("GET", _path(job_id))
    if options.as_json:
        print_json(found)
        return
    for name, value in found.value.items():
        click.echo(f"{name.replace('_', ' ')}: {_progress(value) if isinstance(value, dict) else value}")


@jobs.command()
@click.argument("job_ids", metavar="JOB_ID...", nargs=-1, required=True)
@click.pass_obj
def retry(options: Options, job_ids: tuple[str, ...]) -> None:
    """Have jobs done again that failed, or the parts of them that did.

    Their calls are new ones: what an earlier try may have been billed for is paid again.
    """
    from tollhouse.cli.session import open_session

    with open_session(options) as session:
        for job_id in job_ids:
            session.request("POST", f"{_path(job_id)}/retry")
            click.echo(f"{job_id} is queued again.")


@jobs.command()
@click.argument("job_ids", metavar="JOB_ID...", nargs=-1, required=True)
@click.pass_obj
def drop(options: Options, job_ids: tuple[str, ...]) -> None:
    """Forget jobs that are over, with their results."""
    from tollhouse.cli.session import open_session

    with open_session(options) as session:
        for job_id in job_ids:
            session.request("DELETE", _path(job_id))
            click.echo(f"{job_id} is dropped.")


def _path(job_id: str) -> str:
    return f"/admin/jobs/{quote(job_id, safe='')}"


def _row(job: Mapping[str, Any]) -> tuple[object, ...]:
    return (
        job["job_id"],
        job["status"],
        job["tenant_id"],
        job["feature_slug"],
        job["attempts"],
        _progress(job["progress"]) if "progress" in job else "",
        job["created_at"],
        job.get("error", ""),
    )


def _progress(progress: Mapping[str, int]) -> str:
    failed = f", {progress['failed']} failed" if progress["failed"] else ""
    return f"{progress['complete']}/{progress['total']}{failed}"

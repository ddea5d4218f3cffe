"""Jobs and reports: how they are run, and what reports are made with."""

from typing import Annotated

from msgspec import Meta

from tollhouse.config.rules import PATHS, accepting, is_base_url, is_path, seconds, whole
from tollhouse.config.section import Section
from tollhouse.config.values import Name, Secret, Switch


class Jobs(Section, frozen=True):
    """How jobs are run, and how long they are kept."""

    in_serve: Switch | None = None
    """Whether ``serve`` runs a worker too; None: on an embedded database, where nobody else can."""
    url: Annotated[str, accepting(is_base_url, "an http:// or https:// URL with a host")] | None = None
    """Where workers reach the service; None: where ``[server]`` says that it is."""
    api_key: Secret | None = None
    """The service key that workers call with; an embedded database can do without."""
    ca_file: Annotated[str, accepting(is_path, PATHS)] | None = None
    """Certificates of authorities to trust at ``url`` instead of the system's."""
    concurrency: Annotated[int, whole(1, 1000)] = 8
    """Calls that a worker has under way at once."""
    max_tries: Annotated[int, whole(1, 20)] = 3
    try_timeout_s: Annotated[float, seconds(3600)] = 60
    retry_pause_s: Annotated[float, seconds(3600)] = 5
    """After the first try; it doubles from try to try."""
    max_crashes: Annotated[int, whole(1, 20)] = 3
    """After so many workers that ended with it, a job is set aside."""
    lease_s: Annotated[float, Meta(ge=1, le=3600, description="a number of seconds from 1 to 3600")] = 30
    """How long a worker that says nothing keeps its jobs."""
    poll_s: Annotated[float, seconds(60)] = 0.5
    stop_timeout_s: Annotated[float, seconds(3600)] = 75
    """How long a worker that is to stop finishes what it holds."""
    keep_hours: Annotated[int, whole(1, 87_600)] = 168
    """How long a job that is over is kept, with its result."""
    max_queued_per_tenant: Annotated[int, whole(1, 1_000_000)] = 100_000
    """How many completions of a tenant may wait or be under way."""


class Reports(Section, frozen=True):
    """What reports are made with."""

    model: Name = "claude-haiku-4-5"
    feature_slug: Name = "report-generation"
    max_tokens: Annotated[int, whole(1, 10_000_000)] = 2000
    max_rows: Annotated[int, whole(1, 100_000)] = 1000
    """How many completions one report may need."""
    templates: Annotated[str, accepting(is_path, PATHS)] | None = None
    """A folder with an operator's own templates."""

"""``tollhouse``: every command there is."""

import click

from tollhouse import __version__
from tollhouse.cli.audit import audit
from tollhouse.cli.budgets import budget
from tollhouse.cli.demo.command import demo
from tollhouse.cli.doctor.command import doctor
from tollhouse.cli.edge import edge
from tollhouse.cli.features import feature
from tollhouse.cli.jobs import jobs
from tollhouse.cli.keys import key
from tollhouse.cli.migrate import migrate
from tollhouse.cli.notifier import notifier
from tollhouse.cli.options import Root
from tollhouse.cli.reconcile import reconcile
from tollhouse.cli.schedules import schedules
from tollhouse.cli.serve import serve
from tollhouse.cli.tenants import tenant
from tollhouse.cli.usage import usage
from tollhouse.cli.verify import verify
from tollhouse.cli.webhooks import webhook
from tollhouse.cli.worker import worker


@click.group(cls=Root, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="Tollhouse", message="%(prog)s %(version)s")
def root() -> None:
    """Tollhouse: the one service between your microservices and the AI providers.

    Without a configuration file every setting has its default, and TOLLHOUSE_<SECTION>__<KEY> variables of the
    environment set what is to be another.
    """


for _command in (
    demo, serve, worker, notifier, migrate, doctor, tenant, feature, key, budget, usage, jobs, schedules, webhook,
    reconcile, audit, verify, edge,
):  # fmt: skip
    root.add_command(_command)

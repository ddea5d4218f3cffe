"""The demo's service: ``tollhouse serve`` as it is, with the demo's page in front of it.

``python -m tollhouse.cli.demo.service serve`` is the one way to have that page: no configuration shows it.
"""

import click

from tollhouse.cli.demo.page import with_page
from tollhouse.cli.options import Command, Options, Root
from tollhouse.cli.serve import run
from tollhouse.errors import StartError


@click.group(cls=Root)
def root() -> None:
    """The service that the demo runs."""


@root.command(cls=Command)
@click.pass_obj
def serve(options: Options) -> None:
    """Serve the API and the demo's page, until SIGTERM or Ctrl-C."""
    database = options.config().database
    if not database.is_embedded:
        raise StartError("[database] url: the demo's page reads an embedded database; expected sqlite:///PATH")
    run(options, lambda service: with_page(service.app, service.operator_token, database.sqlite_path))


if __name__ == "__main__":
    root.main(prog_name="tollhouse")

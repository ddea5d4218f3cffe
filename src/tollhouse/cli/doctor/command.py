"""The command itself: what is looked at, in which order, and how it is shown."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from tollhouse.cli.options import Command, Options
from tollhouse.errors import StartError

if TYPE_CHECKING:
    from tollhouse.cli.doctor.finding import Finding

_MARKS = {"ok": "ok     ", "warning": "warning", "failed": "FAILED "}


@click.command(cls=Command)
@click.pass_context
def doctor(context: click.Context) -> None:
    """Look at everything the service needs; change nothing.

    Configuration, secrets, database, prices, and whether each provider can be reached, without a billed call. Exits
    with 1 if something cannot work.
    """
    from tollhouse.cli.output import print_json
    from tollhouse.telemetry.logs import configure_logs

    configure_logs(as_json=False, level="warning")
    options: Options = context.obj
    findings = _examine(options)
    if options.as_json:
        print_json(findings)
    else:
        _print(findings)
    if any(finding.status == "failed" for finding in findings):
        context.exit(1)


def _examine(options: Options) -> list["Finding"]:
    import asyncio

    from tollhouse.apps.tls import tls_settings
    from tollhouse.cli.doctor.finding import failed, ok, warning
    from tollhouse.cli.doctor.jobs import examine_jobs
    from tollhouse.cli.doctor.machine import examine_database, examine_open_files, examine_pepper
    from tollhouse.cli.doctor.providers import examine_providers
    from tollhouse.config import resolve_secrets
    from tollhouse.kit.clock import SystemClock

    try:
        config = options.config()
    except StartError as error:
        return [failed("configuration", line, "see docs/configuration.md") for line in str(error).splitlines()]
    findings = [ok("configuration", options.config_source())]
    secrets = None
    try:
        secrets = resolve_secrets(config, options.environ)
    except StartError as error:
        advice = "set it where the service is started"
        findings += [failed("secrets", line, advice) for line in str(error).splitlines()]
    if config.auth.admin_key is None:
        advice = "set [auth] admin_key to manage tenants over HTTP; commands on this machine work without"
        findings.append(warning("admin key", "none is configured", advice))
    if config.database.is_embedded:
        findings += examine_database(config.database.sqlite_path)
        findings.append(examine_pepper(config.database.sqlite_path, secrets))
    else:
        from tollhouse.cli.doctor.instance import configured_instance, examine_instance
        from tollhouse.cli.doctor.server import examine_server, examine_stored_pepper

        findings += examine_server(config.database)
        findings.append(examine_stored_pepper(secrets))
        instance = configured_instance(config.server)
        if instance is not None:
            findings += examine_instance(instance, has_to_run=False)
    findings += examine_jobs(config, SystemClock())
    findings.append(examine_open_files(config))
    tls = tls_settings(config.server)
    if tls is not None:
        from tollhouse.cli.doctor.certificates import examine_certificate

        findings.append(examine_certificate(tls, SystemClock()))
    findings += asyncio.run(examine_providers(config, options.environ))
    return findings


def _print(findings: Sequence["Finding"]) -> None:
    width = max(len(finding.check) for finding in findings)
    for finding in findings:
        click.echo(f"{_MARKS[finding.status]}  {finding.check.ljust(width)}  {finding.message}")
        if finding.advice:
            click.echo(f"{' ' * (len(_MARKS['ok']) + width + 4)}→ {finding.advice}")

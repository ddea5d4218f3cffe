"""The walk through the service: what a user would do, done with the same commands and routes."""

import contextlib
import http.client
import io
import json
import shlex
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import click
import msgspec

from tollhouse.cli.demo.business import BUDGETS_USD, POOR_TENANT, TENANT, TENANT_NAMES, USER, example_report
from tollhouse.cli.demo.following import Following
from tollhouse.cli.demo.screen import Screen
from tollhouse.cli.options import Options
from tollhouse.cli.output import dollars
from tollhouse.cli.session import Answer
from tollhouse.errors import StartError
from tollhouse.kit.clock import SystemClock

_CALL_TIMEOUT_S = 120.0
_FEATURE = "sales-summary"
_CALL = {
    "tenant_id": TENANT,
    "user_id": USER,
    "feature_slug": _FEATURE,
    "model": "smollm2-135m",
    "system_prompt": "You are a sales analyst. Answer in one short paragraph.",
    "user_message": "Summarise today's sales: the shop sold 320 coffees for 960 USD, 85 teas for 212 USD and "
    "41 cakes for 164 USD, 1336 USD in all. Yesterday it was 1180 USD.",
    "max_tokens": 400,
}
_LEDGER_COLUMNS = (
    "id",
    "tenant_id",
    "user_id",
    "feature_slug",
    "service",
    "model",
    "input_tokens",
    "output_tokens",
    "cost_nano_usd",
    "status",
    "billing_period",
)


class Walk:
    """The steps, in their order.

    Args:
        tollhouse: the command line, whose commands the steps run.
        file: the service's configuration.
        database: its SQLite file.
        url: where it serves.
        environ: the environment that it was started with.
    """

    def __init__(
        self,
        screen: Screen,
        tollhouse: click.Command,
        *,
        file: Path,
        database: Path,
        url: str,
        environ: Mapping[str, str],
    ) -> None:
        self._screen = screen
        self._tollhouse = tollhouse
        self._file = file
        self._database = database
        self._url = url
        self._environ = environ
        self._key = ""

    def go(self) -> None:
        """Walk through all of it; raises StartError, Refused when a step cannot be made."""
        self._set_up()
        self._call_once()
        self._show_ledger()
        self._show_usage()
        self._run_into_budget()
        self._run_into_switch()
        self._make_report()
        self._verify()

    def tell_what_to_try(self) -> None:
        """Say how to go on by hand, while the service stays up."""
        body = json.dumps(_CALL | {"user_message": "Name three things that a coffee shop sells."})
        words = ["curl", "-s", f"{self._url}/ai/complete", "-H", f"Authorization: Bearer {self._key}"]
        words += ["-H", "Content-Type: application/json", "-d", body]
        self._screen.step("Your turn")
        self._screen.say(
            "The service stays up until you press Ctrl-C. Have a report made, and watch it in your browser:\n"
        )
        self._screen.link(f"{self._url}/demo")
        self._screen.say("\nOr make a call yourself:\n\n")
        click.echo(shlex.join(words))
        self._screen.say(
            f"\nAll there is to call: {self._url}/docs\nMetrics:              {self._url}/metrics\n"
            f"More commands:        tollhouse --help (from {self._file.parent})"
        )

    # The steps.

    def _set_up(self) -> None:
        self._screen.step(f"Tenant {TENANT} on the growth tier, its feature {_FEATURE}, and a key for a service")
        self._tenant(TENANT)
        self._run("feature", "enable", str(TENANT), _FEATURE)
        tenants = ("--tenant", str(TENANT), "--tenant", str(POOR_TENANT))
        created = self._run("key", "create", "--service", "sales-api", *tenants)
        # It stands on a line of its own, as it is to be copied.
        self._key = next(line.strip() for line in created.splitlines() if line.startswith("    "))

    def _call_once(self) -> None:
        self._screen.step("A call, from the service sales-api for user 101")
        answer = self._ask("POST", "/ai/complete", _CALL, show=msgspec.json.encode(_CALL))
        self._screen.say(f"\nThe model says: {answer['content'].strip()}\n")
        read, wrote, cost = answer["input_tokens"], answer["output_tokens"], dollars(answer["cost_usd"])
        self._screen.say(f"It read {read} tokens and wrote {wrote}, which cost {cost}.")

    def _show_ledger(self) -> None:
        self._screen.step("Its row in the ledger, durable before the answer was sent")
        self._show_last_row()
        self._screen.say("\nA nano-USD is a billionth of a dollar: money is never a float here.")

    def _show_last_row(self) -> None:
        columns = ", ".join(_LEDGER_COLUMNS)
        statement = f"SELECT {columns} FROM ai_usage_log ORDER BY id DESC LIMIT 1"  # noqa: S608 - constants
        self._screen.command(f'sqlite3 {self._database.name} "{statement}"')
        with contextlib.closing(sqlite3.connect(f"{self._database.as_uri()}?mode=ro", uri=True)) as connection:
            rows = connection.execute(statement).fetchall()
        self._screen.rows(_LEDGER_COLUMNS, [[str(value) for value in row] for row in rows])

    def _show_usage(self) -> None:
        self._screen.step("The tenant's usage")
        self._ask("GET", f"/ai/usage?tenant_id={TENANT}&group_by=user")

    def _run_into_budget(self) -> None:
        self._screen.step("A budget that is too small: refused before the model is asked")
        self._tenant(POOR_TENANT)
        self._screen.say(f"The same call, but for tenant {POOR_TENANT}:")
        self._ask("POST", "/ai/complete", _CALL | {"tenant_id": POOR_TENANT})

    def _run_into_switch(self) -> None:
        self._screen.step("A feature that is switched off")
        self._run("feature", "disable", str(TENANT), _FEATURE)
        self._screen.say(f"The same call again, for tenant {TENANT}:")
        self._ask("POST", "/ai/complete", _CALL)
        self._run("feature", "enable", str(TENANT), _FEATURE)

    def _make_report(self) -> None:
        self._screen.step("A report, made in the background: its events tell how it goes")
        whose = {"tenant_id": TENANT, "user_id": USER}
        self._screen.request(f"GET /events?{urlencode(whose)}", None)
        body = example_report()
        with Following(self._url, self._key, **whose) as events:
            self._screen.say("a stream, which stays open\n")
            job_id = self._ask("POST", "/reports/generate", body, show=msgspec.json.encode(body))["job_id"]
            self._screen.say("\nWhat comes on the stream:")
            while self._show_next_event(events, job_id) not in {"complete", "failed"}:
                pass
        self._screen.say("")
        target = f"/reports/{job_id}/download"
        self._screen.request(f"GET {target}", None)
        status, elapsed_s, content = self._send("GET", target)
        self._screen.status(status, elapsed_s)
        self._screen.say(f"\n{content.decode().strip()}\n")
        self._show_last_row()

    def _show_next_event(self, events: Following, job_id: str) -> str:
        """Show the next event of a job, and return where the job is; raises StartError when it has failed."""
        waiting = self._screen.waiting()
        while (event := events.next(_CALL_TIMEOUT_S, waiting.tick))["subject"] != job_id:
            pass
        told = event["data"]
        waiting.done(f"{told['status']:<12} {event['type']:<20}  id {int(event['sequence'])}")
        if told["status"] == "failed":
            raise StartError(f"the report failed: {told['error']}: {told['message']}")
        return str(told["status"])

    def _verify(self) -> None:
        self._screen.step("The proof: hash chain, rollups, budgets and reservations, computed again from the ledger")
        self._run("verify")

    # How they are made.

    def _tenant(self, tenant_id: int) -> None:
        """Create a tenant, or bring it back to its beginnings in a directory that was used before."""
        known = msgspec.json.decode(self._captured("tenant", "list", "--json"))["tenants"]
        verb = "set" if any(tenant["tenant_id"] == tenant_id for tenant in known) else "create"
        options = ("--name", TENANT_NAMES[tenant_id], "--tier", "growth", "--budget-usd", BUDGETS_USD[tenant_id])
        self._run("tenant", verb, str(tenant_id), *options)

    def _run(self, *arguments: str) -> str:
        """Run a tollhouse command and show it; return its output."""
        self._screen.command(shlex.join(("tollhouse", *arguments)))
        output = self._captured(*arguments)
        self._screen.say(output.rstrip())
        return output

    def _captured(self, *arguments: str) -> str:
        output = io.StringIO()
        options = Options(config_file=self._file, environ=self._environ)
        with contextlib.redirect_stdout(output):
            self._tollhouse.main(arguments, prog_name="tollhouse", standalone_mode=False, obj=options)
        return output.getvalue()

    def _ask(self, method: str, target: str, body: object = None, *, show: bytes | None = None) -> Any:
        """Make a call with the service's key, and show it, with the body if asked to; return the answer's JSON."""
        self._screen.request(f"{method} {target}", show)
        status, elapsed_s, content = self._send(method, target, body)
        self._screen.answer(status, elapsed_s, content)
        return Answer(content).value

    def _send(self, method: str, target: str, body: object = None) -> tuple[int, float, bytes]:
        """Make a call with the service's key; return the answer's status, how long it took, and its body."""
        server = urlsplit(self._url)
        connection = http.client.HTTPConnection(server.hostname or "", server.port, timeout=_CALL_TIMEOUT_S)
        headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
        clock = SystemClock()
        started_s = clock.monotonic_s()
        with contextlib.closing(connection):
            connection.request(method, target, None if body is None else msgspec.json.encode(body), headers)
            response = connection.getresponse()
            content = response.read()
        return response.status, clock.monotonic_s() - started_s, content

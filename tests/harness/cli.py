"""Commands as they are run, within this process."""

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import structlog
from click.testing import CliRunner, Result

from harness.service import SECRETS
from tollhouse.cli import session
from tollhouse.cli.options import Options
from tollhouse.cli.root import root
from tollhouse.telemetry import logs


@contextmanager
def without_logs() -> Iterator[None]:
    """Logs would go to a stream that ends with the command, which here is not the end of the process."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (session, logs):
            patch.setattr(module, "configure_logs", lambda **_: None)
        structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
        yield
        structlog.reset_defaults()


class Cli:
    """Commands with one configuration."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self._options = Options(config_file=file, environ=SECRETS)

    @property
    def database_url(self) -> str:
        return self._options.config().database.url

    def run(self, *arguments: str) -> Result:
        result = CliRunner().invoke(root, arguments, obj=replace(self._options))
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    def __call__(self, *arguments: str) -> str:
        """Run a command that has to succeed, and return what it prints."""
        result = self.run(*arguments)
        assert result.exit_code == 0, result.output
        assert result.stderr == ""
        return result.stdout

    def json(self, *arguments: str) -> Any:
        return json.loads(self(*arguments, "--json"), parse_float=Decimal)

    def refusal(self, *arguments: str, exit_code: int = 1) -> str:
        """Run a command that has to fail, and return why it does."""
        result = self.run(*arguments)
        assert result.exit_code == exit_code, result.output
        assert result.stdout == ""
        return result.stderr

    def findings(self, exit_code: int = 0) -> dict[str, tuple[str, str]]:
        """What the doctor found: status and message of each check."""
        result = self.run("doctor", "--json")
        assert result.exit_code == exit_code, result.output
        return {finding["check"]: (finding["status"], finding["message"]) for finding in json.loads(result.stdout)}

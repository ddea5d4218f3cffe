import os
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from tollhouse import __version__
from tollhouse.cli.root import root


def commands(group: click.Group, *names: str):
    for name, command in group.commands.items():
        yield (*names, name)
        if isinstance(command, click.Group):
            yield from commands(command, *names, name)


def test_every_command_of_the_contract_is_there():
    assert set(root.commands) >= {
        "demo", "serve", "migrate", "doctor", "tenant", "feature", "key", "budget", "usage", "audit", "verify",
    }  # fmt: skip


@pytest.mark.parametrize("names", list(commands(root)), ids=" ".join)
def test_every_command_explains_itself(names):
    result = CliRunner().invoke(root, [*names, "--help"])

    assert result.exit_code == 0
    assert f"Usage: root {' '.join(names)}" in result.output


@pytest.mark.parametrize("names", [names for names in commands(root) if names != ("demo",)], ids=" ".join)
def test_every_command_but_the_demo_takes_a_configuration_and_prints_json(names):
    output = CliRunner().invoke(root, [*names, "--help"]).output

    assert "-c, --config FILE" in output
    assert "--json" in output


def test_every_command_is_described_in_a_line_that_fits():
    assert "..." not in CliRunner().invoke(root, ["--help"], terminal_width=80).output.partition("Commands:")[2]


def test_the_version_is_told():
    assert CliRunner().invoke(root, ["--version"]).output == f"Tollhouse {__version__}\n"


def test_help_imports_nothing_heavy():
    heavy = ("alembic", "litestar", "sqlalchemy", "structlog", "uvicorn", "asyncio")
    code = f"import sys, tollhouse.cli.root; print([name for name in {heavy!r} if name in sys.modules])"

    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)

    assert found.stdout == "[]\n"


def test_commands_on_the_database_file_are_quiet_and_load_nothing_of_the_api_process(tmp_path):
    heavy = ("httptools", "litestar", "prometheus_client", "tollhouse.wiring", "uvicorn", "uvloop")
    code = (
        "import sys\n"
        "from tollhouse.cli.root import root\n"
        "for command in ('migrate', 'verify'):\n"
        "    root.main([command], standalone_mode=False)\n"
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    environ = {name: value for name, value in os.environ.items() if not name.startswith("TOLLHOUSE_")}

    found = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environ, capture_output=True, text=True, check=True, timeout=60
    )

    made, verified, _end, loaded = found.stdout.splitlines()
    assert made.startswith("tollhouse.db was created, ")
    assert verified.startswith("Consistent ")
    assert loaded == "[]"
    assert found.stderr == ""

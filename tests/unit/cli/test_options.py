import errno
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from tollhouse.cli.options import Options, Refused, Root
from tollhouse.errors import StartError, Unavailable


@click.group(cls=Root)
def tool():
    """A command line like the real one."""


@tool.command()
@click.pass_obj
def show(options: Options) -> None:
    click.echo(f"{options.config_file} {options.as_json}")


@tool.group()
def thing():
    """A group in it."""


@thing.command("show")
@click.pass_obj
def show_thing(options: Options) -> None:
    click.echo(f"{options.config_file} {options.as_json}")


@pytest.mark.parametrize(
    "arguments",
    [
        "-c x.toml --json show",
        "show -c x.toml --json",
        "-c x.toml show --json",
        "-c other.toml show -c x.toml --json",
        "-c x.toml --json thing show",
        "thing -c x.toml --json show",
        "thing show --config x.toml --json",
    ],
)
def test_the_common_options_may_stand_before_or_after_a_commands_name(arguments):
    result = CliRunner().invoke(tool, arguments.split())

    assert result.output == f"{Path('x.toml')} True\n"


def test_without_options_the_file_is_left_to_the_configuration_and_output_is_for_people():
    assert CliRunner().invoke(tool, ["show"]).output == "None False\n"


def failing(error: BaseException):
    @click.group(cls=Root)
    def group():
        pass

    @group.command()
    def fail():
        raise error

    return CliRunner().invoke(group, ["fail"])


def test_what_cannot_start_is_told_in_a_line_for_each_problem_and_exits_with_2():
    result = failing(StartError("tollhouse.toml:1: wrong\ntollhouse.toml:7: wrong too"))

    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr == (
        "tollhouse: error: tollhouse.toml:1: wrong\ntollhouse: error: tollhouse.toml:7: wrong too\n"
    )


def test_indented_lines_of_an_error_go_with_the_line_before_them():
    result = failing(StartError("it is missing:\n    pip install it"))

    assert result.stderr == "tollhouse: error: it is missing:\n    pip install it\n"


@pytest.mark.parametrize("error", [Refused("there is no tenant 7", 404), Unavailable("there is no tenant 7")])
def test_what_is_refused_is_told_and_exits_with_1(error):
    result = failing(error)

    assert (result.exit_code, result.stderr) == (1, "tollhouse: error: there is no tenant 7\n")


def test_an_error_of_the_operating_system_is_told_and_exits_with_2():
    result = failing(OSError(errno.ENOSPC, "No space left on device", "x.db"))

    assert result.exit_code == 2
    assert result.stderr == "tollhouse: error: [Errno 28] No space left on device: 'x.db'\n"


def test_a_reader_who_has_seen_enough_is_no_error_worth_telling():
    result = failing(BrokenPipeError(errno.EPIPE, "Broken pipe"))

    assert (result.exit_code, result.stderr) == (1, "")


def test_a_misspelt_command_exits_with_2():
    result = CliRunner().invoke(tool, ["shwo"])

    assert result.exit_code == 2
    assert "No such command 'shwo'" in result.stderr

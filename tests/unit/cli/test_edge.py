import pytest
from click.testing import CliRunner

from tollhouse.cli.root import root

BASE = ["--plain-http", "--upstream", "10.0.0.1:8080"]


@pytest.mark.parametrize("kind", ["nginx", "envoy"])
def test_it_is_printed_or_written(kind, tmp_path):
    printed = CliRunner().invoke(root, ["edge", kind, *BASE])
    written = CliRunner().invoke(root, ["edge", kind, *BASE, "-o", str(tmp_path / "out")])

    assert printed.exit_code == written.exit_code == 0
    assert written.output == ""
    assert (tmp_path / "out").read_text() == printed.output
    assert "10.0.0.1" in printed.output


@pytest.mark.parametrize(
    "options",
    [
        ["--upstream", "h:80;}"],
        ["--feature-upstream", "=h:80"],
        ["--server-name", "a b"],
        ["--read-timeout-s", "0"],
        ["--certificate", "relative"],
        ["--log-dir", "/var/$x"],
    ],
)
def test_a_wrong_option_is_told_with_what_was_expected(options):
    result = CliRunner().invoke(root, ["edge", "nginx", *BASE, *options])

    assert result.exit_code == 2
    assert options[0] in result.output
    assert "expected" in result.output


def test_options_go_before_the_file(tmp_path):
    file = tmp_path / "t.toml"
    file.write_text('[edge]\nplain_http = true\nupstreams = ["a:1"]\nread_timeout_s = 5\n[limits]\nburst = 7\n')

    output = CliRunner().invoke(root, ["edge", "nginx", "-c", str(file), "--upstream", "b:2"]).output

    assert "server b:2 " in output
    assert "a:1" not in output
    assert "proxy_read_timeout 5s;" in output
    assert "burst=7 " in output


def test_envoy_itself_checks(tmp_path):
    assert CliRunner().invoke(root, ["edge", "envoy", *BASE, "--check", "-o", str(tmp_path / "e")]).exit_code == 0
    missing = ["--certificate", "/none.pem", "--certificate-key", "/none.key", "--upstream", "a:1"]
    refused = CliRunner().invoke(root, ["edge", "envoy", *missing, "--check", "-o", str(tmp_path / "f")])

    assert refused.exit_code == 1
    assert "envoy refuses it" in refused.output
    assert not (tmp_path / "f").exists()

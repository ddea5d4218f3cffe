import pytest

from tollhouse.config.load import load_config
from tollhouse.config.model import Config
from tollhouse.config.secrets import Secrets, resolve_secrets
from tollhouse.errors import StartError

ADMIN_KEY = "an-admin-key-of-24-chars"


@pytest.fixture
def load(tmp_path):
    def write_and_load(text):
        file = tmp_path / "tollhouse.toml"
        file.write_text(text.replace("$DIR", str(tmp_path)), encoding="utf-8")
        return load_config(file, {})

    return write_and_load


def problem(config: Config, environ: dict[str, str] | None = None) -> str:
    with pytest.raises(StartError) as caught:
        resolve_secrets(config, environ or {})
    return str(caught.value)


def test_secrets_come_from_variables_and_files(load, tmp_path):
    config = load(
        "[auth]\nadmin_key = 'env:K'\npepper = 'file:$DIR/pepper'\n"
        "[providers.a]\nkind = 'openai'\napi_key = 'env:A'\n[providers.local]\nkind = 'openai'\n"
    )
    (tmp_path / "pepper").write_bytes(b"\x00\xff salt\n\n")

    secrets = resolve_secrets(config, {"K": ADMIN_KEY, "A": "sk-1"})

    assert secrets == Secrets(ADMIN_KEY, b"\x00\xff salt\n", {"a": {"api_key": "sk-1"}})


def test_a_secret_given_in_an_override_is_its_value():
    environ = {"TOLLHOUSE_AUTH__ADMIN_KEY": ADMIN_KEY}
    assert resolve_secrets(load_config(None, environ), environ).admin_key == ADMIN_KEY


def test_a_configuration_without_secrets_needs_none(load):
    assert resolve_secrets(load(""), {}) == Secrets(None, None, {})


def test_commands_that_call_no_provider_need_no_provider_keys(load):
    config = load("[auth]\npepper = 'env:P'\n[providers.a]\nkind = 'openai'\napi_key = 'env:NOT_SET'\n")

    secrets = resolve_secrets(config, {"P": "x"}, providers=False)

    assert secrets == Secrets(None, b"x", {})


@pytest.mark.parametrize(
    ("content", "secret"), [(b"k\n", b"k"), (b"k\r\n", b"k"), (b"k", b"k"), (b"k\n\n", b"k\n"), (b"k\r", b"k\r")]
)
def test_a_file_loses_one_line_end_and_no_more(load, tmp_path, content, secret):
    (tmp_path / "pepper").write_bytes(content)
    assert resolve_secrets(load("[auth]\npepper = 'file:$DIR/pepper'"), {}).pepper == secret


def test_bytes_of_a_variable_that_are_no_utf_8_are_kept(load):
    environ = {"P": b"\xff".decode("utf-8", "surrogateescape")}
    assert resolve_secrets(load("[auth]\npepper = 'env:P'"), environ).pepper == b"\xff"


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({}, "environment variable K is not set: expected it to hold the secret"),
        ({"K": ""}, "environment variable K is empty: expected it to hold the secret"),
        ({"K": "hunter2"}, "environment variable K holds too short a key: expected at least 24 characters"),
        (
            {"K": "hunter2 hunter2 hunter2 hunter2"},
            "environment variable K holds no usable key: expected one line of visible ASCII characters, without spaces",
        ),
        (
            {"K": "hunter2-hunter2-hunter2\nX-Injected:1"},
            "environment variable K holds no usable key: expected one line of visible ASCII characters, without spaces",
        ),
    ],
)
def test_an_unusable_admin_key_is_named_with_its_place_and_never_shown(load, tmp_path, environ, message):
    found = problem(load("\n[auth]\nadmin_key = 'env:K'"), environ)

    assert found == f"{tmp_path}/tollhouse.toml:3: [auth] admin_key: {message}"
    assert "hunter2" not in found


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        ("missing", "cannot be read (No such file or directory)"),
        ("", "cannot be read (Is a directory)"),
        ("empty", "is empty"),
        ("endless", "cannot be read (File too large)"),
    ],
)
def test_an_unusable_file_is_named(load, tmp_path, file, reason):
    (tmp_path / "empty").write_bytes(b"\n")
    (tmp_path / "endless").symlink_to("/dev/zero")

    found = problem(load(f"[providers.a]\nkind = 'openai'\napi_key = 'file:$DIR/{file}'"))

    assert found == (
        f"{tmp_path}/tollhouse.toml:3: [providers.a] api_key: file {tmp_path}/{file} {reason}: "
        "expected it to hold the secret"
    )


def test_all_missing_secrets_are_reported_at_once(load):
    found = problem(load("[auth]\nadmin_key='env:A'\npepper='env:B'\n[providers.p]\nkind='openai'\napi_key='env:C'"))
    assert [line.partition("variable ")[2][0] for line in found.split("\n")] == ["A", "B", "C"]


def test_secrets_do_not_show_themselves():
    assert repr(Secrets("hunter2", b"hunter2", {"a": {"api_key": "hunter2"}})) == "Secrets()"

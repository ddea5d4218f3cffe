import re
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest

from tollhouse.config.load import load_config
from tollhouse.config.model import REFERENCE_TIERS, Config, Database
from tollhouse.config.values import SecretReference
from tollhouse.errors import StartError

WHOLE = """\
[server]
host = "::1"
port = 0
body_timeout_s = 2.5

[database]
url = "sqlite:////var/lib/tollhouse.db"

[auth]
admin_key = "env:TOLLHOUSE_ADMIN_KEY"

[providers.anthropic]
kind = "anthropic"
base_url = "https://api.anthropic.com"
api_key = "file:/run/secrets/anthropic"
timeout_s = 60

[models."claude-haiku-4-5"]
provider = "anthropic"
fallbacks = ["small"]
price = { input = 0.80, output = 4.00 }

[models.small]
provider = "anthropic"
price.input = 0.1
price.output = 1

[tenants]
default_tier = "pro"

[tiers.pro]
budget_usd = 25.000000001

[tiers.growth]
budget_usd = 12
"""


@pytest.fixture(autouse=True)
def in_an_empty_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def load(text: str, environ: dict[str, str] | None = None) -> Config:
    Path("tollhouse.toml").write_text(text, encoding="utf-8")
    return load_config(None, environ or {})


def problems(text: str, environ: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(StartError) as caught:
        load(text, environ)
    return str(caught.value).split("\n")


def problem(text: str) -> str:
    (only,) = problems(text)
    return only


def test_a_whole_configuration_is_read_into_types():
    config = load(WHOLE)

    assert config.server.host == "::1"
    assert config.server.port == 0
    assert config.server.body_timeout_s == 2.5
    assert config.database.sqlite_path == Path("/var/lib/tollhouse.db")
    assert config.auth.admin_key == SecretReference("env", "TOLLHOUSE_ADMIN_KEY", "tollhouse.toml:10: [auth] admin_key")
    assert config.auth.pepper is None
    api_key = config.providers["anthropic"].api_key
    assert api_key is not None
    assert (api_key.source, api_key.name) == ("file", "/run/secrets/anthropic")
    assert config.models["claude-haiku-4-5"].fallbacks == ("small",)
    small = config.models["small"].price
    assert small is not None
    assert (small.input, small.output, small.reasoning) == (Decimal("0.1"), Decimal(1), None)
    assert config.tenants.default_tier == "pro"


def test_amounts_are_exact_and_configured_tiers_join_or_replace_the_reference_tiers():
    tiers = load(WHOLE).tiers

    assert tiers["pro"].budget_usd == Decimal("25.000000001")
    assert tiers["growth"].budget_usd == Decimal(12)
    assert tiers["starter"] == REFERENCE_TIERS["starter"]


def test_without_a_file_everything_has_its_default():
    assert load_config(None, {}) == Config()


def test_a_file_may_start_with_a_byte_order_mark_and_have_windows_line_ends():
    Path("tollhouse.toml").write_bytes(b"\xef\xbb\xbf[server]\r\nport = 1\r\n")
    assert load_config(None, {}).server.port == 1


@pytest.mark.parametrize(
    ("url", "path"),
    [
        ("sqlite:///./a.db", Path("a.db")),
        ("sqlite:////a/b.db", Path("/a/b.db")),
    ],
)
def test_a_database_url_names_a_file(url, path):
    assert load(f"[database]\nurl = '{url}'").database.sqlite_path == path
    assert Database(url=url).sqlite_path == path


def test_a_database_on_a_server_can_be_configured_but_is_no_file():
    database = load("[database]\nurl = 'postgresql://me:pw@db:5432/tollhouse'").database

    assert database.url == "postgresql://me:pw@db:5432/tollhouse"
    assert not database.is_embedded
    assert Database().is_embedded


# What is wrong with the file itself.


def test_a_named_file_that_is_missing_is_an_error():
    with pytest.raises(StartError, match=r"^other.toml: no such file: expected a configuration file in TOML$"):
        load_config(Path("other.toml"), {})


def test_a_directory_in_place_of_a_file_is_an_error():
    Path("tollhouse.toml").mkdir()
    with pytest.raises(StartError, match=r"^tollhouse.toml: cannot be read \(Is a directory\)"):
        load_config(None, {})


def test_a_file_without_end_is_an_error():
    with pytest.raises(StartError, match=r"^/dev/zero: cannot be read \(File too large\)"):
        load_config(Path("/dev/zero"), {})


def test_a_file_that_is_not_utf_8_is_an_error_with_its_line():
    Path("tollhouse.toml").write_bytes(b"[server]\nhost = '\xff'")
    with pytest.raises(StartError, match=r"^tollhouse.toml:2: not UTF-8"):
        load_config(None, {})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[server]\nport = = 1", "tollhouse.toml:2:8: not valid TOML: Invalid value"),
        ("[a]\nb = [\n", "tollhouse.toml:2:6: not valid TOML: Invalid value"),
        ("a = 1\na = 2\n", "tollhouse.toml:2:6: not valid TOML: Cannot overwrite a value"),
        ("a = " + "9" * 5000, "tollhouse.toml: an integer has too many digits"),
        ("a = " + "[" * 5000, "tollhouse.toml: arrays or tables are nested too deeply"),
    ],
)
def test_text_that_is_not_toml_is_an_error_with_its_line_and_column(text, message):
    assert problem(text) == message


# What is wrong with its keys and values.


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("\n[servr]", '2: [servr]: unknown key: expected one of auth, *; did you mean "server"?'),
        ("[server]\n\nprot = 1", '3: [server] prot: unknown key: expected one of *; did you mean "port"?'),
        ("server = 5", "1: [server] = 5: expected a table"),
        ("[[providers]]\n", "1: [providers] = an array: expected a table"),
        ("models.x = true", "1: [models.x] = true: expected a table"),
        ("[server]\nport = 65536", "2: [server] port = 65536: expected a whole number from 0 to 65535"),
        ("[server]\nport = -1", "2: [server] port = -1: expected a whole number from 0 to 65535"),
        ("[server]\nport = true", "2: [server] port = true: expected a whole number *"),
        ("[server]\nport = 80.0", "2: [server] port = 80.0: expected a whole number *"),
        ("[server]\nport = '80'", '2: [server] port = "80": expected a whole number *'),
        (
            "[server]\nport = 0x" + "f" * 5000,
            "2: [server] port = a number of more than 64 bits: expected a whole number *",
        ),
        ("[server]\nport = 2000-01-01", "2: [server] port = 2000-01-01: expected a whole number *"),
        ("[server]\nport = {}", "2: [server] port = a table: expected a whole number *"),
        ("[server]\nhost = ''", '2: [server] host = "": expected a host name or an IP address'),
        ("[server]\nhost = '\u009b31m'", '2: [server] host = "\\u009b31m": expected a host name or an IP address'),
        (
            "[server]\nbody_timeout_s = 0",
            "2: [server] body_timeout_s = 0: expected a number of seconds above 0 and at most 3600",
        ),
        ("[server]\nbody_timeout_s = nan", "2: [server] body_timeout_s = NaN: expected *"),
        ("[server]\nbody_timeout_s = inf", "2: [server] body_timeout_s = Infinity: expected *"),
        ("[server]\nbody_timeout_s = 1e99999999999999999999", "2: [server] body_timeout_s = NaN: expected *"),
        (
            "[providers.a]\nkind = 'openai'\nfirst_byte_timeout_s = 0",
            "3: [providers.a] first_byte_timeout_s = 0: expected a number of seconds above 0 and at most 3600",
        ),
        (
            "[providers.a]\nkind = 'openai'\nfirst_byte_timeout_s = -1.5",
            "3: [providers.a] first_byte_timeout_s = -1.5: expected a number of seconds above 0 *",
        ),
        (
            "[providers.a]\nkind = 'openai'\nconnect_timeout_s = 0",
            "3: [providers.a] connect_timeout_s = 0: expected a number of seconds above 0 and at most 3600",
        ),
        ("[tiers.a]", '1: [tiers.a]: "budget_usd" is missing: expected an amount in USD *'),
        ("[tiers.a]\nbudget_usd = 1e-10", "2: [tiers.a] budget_usd = 1E-10: expected * at most 9 decimal places"),
        ("[tiers.a]\nbudget_usd = -0.01", "2: [tiers.a] budget_usd = -0.01: expected an amount in USD from 0 *"),
        ("[tiers.a]\nbudget_usd = '10'", '2: [tiers.a] budget_usd = "10": expected an amount in USD *'),
        ("[tiers.a]\nbudget_usd = nan", "2: [tiers.a] budget_usd = NaN: expected an amount in USD *"),
        ("[tiers.a]\nbudget_usd = 1e99", "2: [tiers.a] budget_usd = 1E+99: expected an amount in USD *"),
        ("[tiers.'']\nbudget_usd = 1", '1: [tiers.""]: expected a name of 1 to 128 printable characters'),
        (
            "[providers.a]\nkind = 'opena'",
            '2: [providers.a] kind = "opena": expected one of anthropic, *; did you mean "openai"?',
        ),
        ("[models.m]", '1: [models.m]: "provider" is missing: expected the name of a configured provider'),
        ("[idempotency]\nkeep_hours = 0", "2: [idempotency] keep_hours = 0: expected a whole number from 1 to 8760"),
    ],
)
def test_a_wrong_key_or_value_is_named_with_its_line_and_what_was_expected(text, message):
    pattern = ".*".join(map(re.escape, f"tollhouse.toml:{message}".split("*")))
    assert re.fullmatch(pattern, problem(text))


@pytest.mark.parametrize(
    "url",
    [
        "ftp://host",
        "http://",
        "http://:80",
        "https://me:hunter2@host/v1",
        "https://me:hunter2@host/v1?api-version=1",
        "https://ho*st/",
        "ftp://host/v1?key=hunter2",
        "https://host/#hunter2",
        "https://ho st/",
        "https://host:99999",
        "https://host:0",
        "https://[::1",
        "//host",
        "https://h\\tost",
    ],
)
def test_a_base_url_has_a_host_and_nothing_that_could_be_a_secret(url):
    found = problem(f'[providers.a]\nkind = "openai"\nbase_url = "{url}"')

    assert found.startswith("tollhouse.toml:3: [providers.a] base_url")
    assert found.endswith(": expected an http:// or https:// URL with a host, without user name or fragment")
    assert "hunter2" not in found or "#" in url


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:11434/v1",
        "https://x.openai.azure.com/openai/deployments/d?api-version=2024-10-21",
        "http://[::1]:80",
    ],
)
def test_a_base_url_may_have_a_port_and_a_path(url):
    assert load(f"[providers.a]\nkind = 'openai'\nbase_url = '{url}'").providers["a"].base_url == url


@pytest.mark.parametrize(
    "url",
    ["mysql://root:hunter2@h/d", "sqlite://", "sqlite:///", "sqlite:///:memory:", "sqlite:///a?b", "postgresql://"],
)
def test_another_database_is_refused_without_showing_its_password(url):
    found = problem(f"[database]\nurl = '{url}'")

    assert found.startswith("tollhouse.toml:2: [database] url")
    assert found.endswith(": expected sqlite:///FILE or postgresql://user:password@host:5432/name")
    assert "hunter2" not in found


@pytest.mark.parametrize(
    "written",
    [
        '"hunter2-hunter2"',
        '"env:hunter2-x"',
        '"file:hunter2"',
        '"env:"',
        '"file:/hunter2\\u0000"',
        "222222",
        '["hunter2"]',
    ],
)
def test_a_secret_in_plain_text_is_refused_without_showing_it(written):
    found = problem(f"[auth]\nadmin_key = {written}")

    assert found == "tollhouse.toml:2: [auth] admin_key: expected env:NAME or file:/path, never as plain text"


def test_a_secret_under_a_misspelt_key_is_not_shown():
    assert "hunter2" not in problem("[auth]\nadmin_kee = 'hunter2'")


def test_all_problems_are_reported_at_once_in_the_order_of_the_file():
    text = "[tiers.a]\nbudget_usd = -1\n[server]\nport = -1\nprot = 1\n[auth]\npepper = 'x'\n[providers.p]\n"

    lines = [found.split(":")[1] for found in problems(text, {"TOLLHOUSE_LIMITS__BURST": "0"})[:-1]]

    assert lines == ["2", "4", "5", "7", "8"]
    assert problems(text, {"TOLLHOUSE_LIMITS__BURST": "0"})[-1].startswith('TOLLHOUSE_LIMITS__BURST = "0": expected')


# What is wrong between keys.

PROVIDERS = "[providers.anthropic]\nkind = 'anthropic'\n[providers.openai]\nkind = 'openai'\n"


def test_a_model_of_an_unknown_provider_is_refused_with_a_suggestion():
    found = problem(PROVIDERS + '[models."claude-haiku-4-5"]\n\nprovider = "antropic"')

    assert found == (
        'tollhouse.toml:7: [models."claude-haiku-4-5"] provider = "antropic": expected the name of a configured '
        'provider (anthropic, openai); did you mean "anthropic"?'
    )


def test_a_model_without_any_provider_configured_is_refused():
    assert problem("[models.m]\nprovider = 'p'").endswith(
        "expected the name of a configured provider (none is configured)"
    )


@pytest.mark.parametrize(
    ("fallbacks", "message"),
    [
        ("['a']", "the model itself is among them: expected other models"),
        ("['b', 'b']", '= "b": expected each model once'),
        ("'b'", '= "b": expected a list of names of other configured models, each once'),
        ("[1]", "= an array: expected a list of names of other configured models, each once"),
    ],
)
def test_fallbacks_are_other_configured_models_each_once(fallbacks, message):
    found = problem(
        PROVIDERS + f"[models.a]\nprovider = 'openai'\nfallbacks = {fallbacks}\n[models.b]\nprovider = 'openai'"
    )

    assert found.startswith("tollhouse.toml:7: [models.a] fallbacks")
    assert message in found


def test_a_fallback_that_is_not_configured_is_no_error():
    models = "[models.m]\nprovider = 'openai'\nfallbacks = ['gpt-4o-mini']\n[models.gpt-4o]\nprovider = 'openai'"

    assert load(PROVIDERS + models).models["m"].fallbacks == ("gpt-4o-mini",)


def test_a_name_that_is_misspelt_in_fallbacks_gets_a_suggestion():
    models = "[models.m]\nprovider = 'openai'\nfallbacks = ['gtp-4o']\n[models.gpt-4o]\nprovider = 'openai'"
    assert problem(PROVIDERS + models).endswith('did you mean "gpt-4o"?')


def test_a_price_needs_its_input_and_output_rates_on_the_line_of_its_table():
    found = problem(PROVIDERS + "[models.m]\nprovider = 'openai'\nprice = { input = 1 }")
    assert found.startswith('tollhouse.toml:7: [models.m] price: "output" is missing: expected an amount in USD')


def test_the_default_deadline_is_within_the_longest_one():
    assert problem("[limits]\nmax_timeout_s = 30").endswith(
        "[limits] call_timeout_s = 60: expected at most max_timeout_s, 30"
    )


def test_an_answer_may_not_begin_later_than_the_attempt_ends():
    found = problem(PROVIDERS + "timeout_s = 30\n\nfirst_byte_timeout_s = 30.5")
    assert found == ("tollhouse.toml:7: [providers.openai] first_byte_timeout_s = 30.5: expected at most timeout_s, 30")


def test_a_first_byte_timeout_is_within_the_default_timeout_and_the_environments():
    assert problem(PROVIDERS + "first_byte_timeout_s = 60.5").endswith("expected at most timeout_s, 60")
    (found,) = problems(PROVIDERS + "first_byte_timeout_s = 60", {"TOLLHOUSE_PROVIDERS__OPENAI__TIMEOUT_S": "20"})
    assert found.endswith("expected at most timeout_s, 20")


def test_a_first_byte_timeout_is_optional_and_may_be_as_long_as_the_timeout():
    found = load(PROVIDERS + "timeout_s = 2.5\nfirst_byte_timeout_s = 2.5\nconnect_timeout_s = 1.5").providers
    assert (found["openai"].first_byte_timeout_s, found["openai"].connect_timeout_s) == (2.5, 1.5)
    assert found["anthropic"].first_byte_timeout_s is None


def test_the_default_tier_is_one_of_the_tiers():
    assert problem("[tenants]\ndefault_tier = 'grwth'") == (
        'tollhouse.toml:2: [tenants] default_tier = "grwth": expected the name of a tier '
        '(enterprise, growth, starter); did you mean "growth"?'
    )


def test_a_long_list_of_names_is_cut():
    models = "".join(f"[models.m{number}]\nprovider = 'openai'\n" for number in range(50))
    found = problem(PROVIDERS + models + "fallbacks = ['m 1']")

    assert ", …)" in found
    assert len(found) < 300


def test_a_loaded_configuration_cannot_be_changed():
    with pytest.raises(AttributeError):
        load(WHOLE).server.port = 1  # type: ignore[misc]


def test_a_loaded_configuration_can_be_shown_since_it_holds_no_secret():
    config = load("", {"TOLLHOUSE_AUTH__ADMIN_KEY": "hunter2" * 4})

    assert "hunter2" not in repr(config)
    assert b"hunter2" not in msgspec.json.encode(config)

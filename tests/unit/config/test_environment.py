import re
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path

import pytest

from tollhouse.config.load import load_config
from tollhouse.config.model import Config
from tollhouse.errors import StartError

TEXT = """\
[server]
port = 8080
[providers.open-ai]
kind = "openai"
[models."gpt-4.1"]
provider = "open-ai"
price = { input = 1, output = 2 }
[models."Meta/Llama:8b"]
provider = "open-ai"
"""


@pytest.fixture
def load(tmp_path):
    file = tmp_path / "tollhouse.toml"
    file.write_text(TEXT, encoding="utf-8")
    return lambda **environ: load_config(file, environ)


def problem(load: Callable[..., Config], **environ: str) -> str:
    with pytest.raises(StartError) as caught:
        load(**environ)
    return str(caught.value)


def test_a_variable_goes_before_the_file(load):
    assert load(TOLLHOUSE_SERVER__PORT="9000").server.port == 9000


def test_variables_work_without_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_config(None, {"TOLLHOUSE_SERVER__HOST": "0.0.0.0"}).server.host == "0.0.0.0"


def test_each_type_of_value_is_read_from_its_text(load):
    config = load(
        TOLLHOUSE_PROVIDERS__OPEN_AI__TIMEOUT_S="2.5",
        TOLLHOUSE_PROVIDERS__OPEN_AI__BASE_URL="http://127.0.0.1:1/v1",
        TOLLHOUSE_MODELS__GPT_4_1__PRICE__CACHED_INPUT="0.000000001",
        TOLLHOUSE_MODELS__GPT_4_1__FALLBACKS="Meta/Llama:8b",
        TOLLHOUSE_MODELS__GPT_4_1__MAX_OUTPUT_TOKENS="100",
        TOLLHOUSE_TIERS__GROWTH__BUDGET_USD="12",
    )

    assert config.providers["open-ai"].timeout_s == 2.5
    assert config.providers["open-ai"].base_url == "http://127.0.0.1:1/v1"
    model = config.models["gpt-4.1"]
    assert model.price is not None
    assert (model.price.input, model.price.cached_input) == (Decimal(1), Decimal("1e-9"))
    assert (model.fallbacks, model.max_output_tokens) == (("Meta/Llama:8b",), 100)
    assert config.tiers["growth"].budget_usd == Decimal(12)


def test_a_list_of_numbers_is_written_with_commas_too(load):
    assert load(TOLLHOUSE_EVENTS__BUDGET_THRESHOLDS="80, 100").events.budget_thresholds == (80, 100)
    assert load(TOLLHOUSE_EVENTS__BUDGET_THRESHOLDS="").events.budget_thresholds == ()
    for wrong in ("80,x", "0", "101", "80,80", "-1"):
        told = problem(load, TOLLHOUSE_EVENTS__BUDGET_THRESHOLDS=wrong)
        assert "expected a list of whole numbers from 1 to 100, each once" in told


def test_a_list_is_written_with_commas_and_an_empty_text_is_an_empty_list(load):
    made = {"TOLLHOUSE_MODELS__SMALL__PROVIDER": "open-ai"}

    assert load(**made, TOLLHOUSE_MODELS__SMALL__FALLBACKS=" gpt-4.1 ,Meta/Llama:8b").models["small"].fallbacks == (
        "gpt-4.1",
        "Meta/Llama:8b",
    )
    assert load(**made, TOLLHOUSE_MODELS__SMALL__FALLBACKS="").models["small"].fallbacks == ()


def test_a_name_matches_whatever_characters_its_underscores_stand_for(load):
    models = load(
        TOLLHOUSE_models__gpt_4_1__upstream_model="a", TOLLHOUSE_MODELS__META_LLAMA_8B__UPSTREAM_MODEL="b"
    ).models

    assert {name: model.upstream_model for name, model in models.items()} == {"gpt-4.1": "a", "Meta/Llama:8b": "b"}


def test_a_name_that_matches_nothing_makes_an_entry_in_lower_case(load):
    config = load(TOLLHOUSE_PROVIDERS__MY_LOCAL__KIND="openai", TOLLHOUSE_PROVIDERS__MY_LOCAL__TIMEOUT_S="1")

    assert (config.providers["my_local"].kind, config.providers["my_local"].timeout_s) == ("openai", 1)


def test_a_name_that_matches_two_entries_is_refused(tmp_path):
    file = tmp_path / "tollhouse.toml"
    file.write_text(TEXT + "[models.gpt-4-1]\nprovider = 'open-ai'", encoding="utf-8")

    with pytest.raises(StartError) as caught:
        load_config(file, {"TOLLHOUSE_MODELS__GPT_4_1__PROVIDER": "open-ai"})

    assert str(caught.value) == (
        "TOLLHOUSE_MODELS__GPT_4_1__PROVIDER: names more than one of gpt-4.1, gpt-4-1: set it in the file"
    )


def test_variables_without_a_double_underscore_and_those_of_others_are_left_alone(load):
    config = load(TOLLHOUSE_ADMIN_KEY="k", TOLLHOUSE_PORT="1", XTOLLHOUSE_SERVER__PORT="1", tollhouse_server__port="1")

    assert config == load()


@pytest.mark.parametrize(
    ("variable", "text", "message"),
    [
        ("TOLLHOUSE_SERVER__PORT", "many", ' = "many": expected a whole number from 0 to 65535'),
        ("TOLLHOUSE_SERVER__PORT", "", ' = "": expected a whole number from 0 to 65535'),
        ("TOLLHOUSE_SERVER__PORT", "9" * 5000, f' = "{"9" * 80}…": expected a whole number from 0 to 65535'),
        ("TOLLHOUSE_TIERS__A__BUDGET_USD", "ten", ' = "ten": expected an amount in USD*'),
        (
            "TOLLHOUSE_TIERS__A__BUDGET_USD",
            "1e99999999999999999999",
            ' = "1e99999999999999999999": expected an amount*',
        ),
        ("TOLLHOUSE_SERVER__PROT", "1", ': no such key: expected one of *; did you mean "port"?'),
        ("TOLLHOUSE_SERVR__PORT", "1", ': no such key: expected one of *; did you mean "server"?'),
        ("TOLLHOUSE__PORT", "1", ": no such key: expected one of *"),
        ("TOLLHOUSE_SERVER__PORT__X", "1", ": no such key: port is a value, and has no keys"),
        ("TOLLHOUSE_MODELS__X", "1", ": names a table: expected one of its keys, as in TOLLHOUSE_MODELS__X__KEY"),
        ("TOLLHOUSE_PROVIDERS__X__API_KEY", "k", ': [providers.x]: "kind" is missing: expected one of *'),
        ("TOLLHOUSE_TIERS____BUDGET_USD", "1", ': [tiers.""]: expected a name of 1 to 128 printable characters'),
        ("TOLLHOUSE_TENANTS__DEFAULT_TIER", "x", ' = "x": expected the name of a tier (enterprise, growth, starter)'),
    ],
)
def test_a_wrong_variable_stops_the_start_by_name(load, variable, text, message):
    found = problem(load, **{variable: text})
    pattern = ".*".join(map(re.escape, f"{variable}{message}".split("*")))
    assert re.fullmatch(pattern, found)


def test_two_variables_for_the_same_key_are_refused(load):
    found = problem(load, TOLLHOUSE_SERVER__PORT="1", TOLLHOUSE_SERVER__port="2")
    assert found == "TOLLHOUSE_SERVER__port: TOLLHOUSE_SERVER__PORT sets the same key: expected one of them"


def test_a_value_in_the_file_where_a_table_belongs_is_the_problem_that_is_reported(tmp_path):
    file = Path(tmp_path / "tollhouse.toml")
    file.write_text("server = 5\nmodels = 6", encoding="utf-8")

    with pytest.raises(StartError) as caught:
        load_config(file, {"TOLLHOUSE_SERVER__PORT": "1", "TOLLHOUSE_MODELS__M__PROVIDER": "p"})

    assert str(caught.value) == f"{file}:1: [server] = 5: expected a table\n{file}:2: [models] = 6: expected a table"


def test_a_secret_may_be_the_variables_own_value_or_refer_to_another(load):
    config = load(TOLLHOUSE_AUTH__ADMIN_KEY="the key itself", TOLLHOUSE_AUTH__PEPPER="file:/run/pepper")

    admin_key, pepper = config.auth.admin_key, config.auth.pepper
    assert admin_key is not None
    assert pepper is not None
    assert (admin_key.source, admin_key.name) == ("env", "TOLLHOUSE_AUTH__ADMIN_KEY")
    assert (pepper.source, pepper.name, pepper.where) == ("file", "/run/pepper", "TOLLHOUSE_AUTH__PEPPER")


def test_a_malformed_reference_in_a_variable_is_refused_without_showing_it(load):
    found = problem(load, TOLLHOUSE_AUTH__ADMIN_KEY="env:hunter2-hunter2")
    assert found == "TOLLHOUSE_AUTH__ADMIN_KEY: expected env:NAME or file:/path, never as plain text"

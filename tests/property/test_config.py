"""Whatever a configuration file and the environment hold, loading them ends in a Config or a StartError."""

import json
import tempfile
import tomllib
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from tollhouse.config.load import load_config
from tollhouse.config.locate import locate
from tollhouse.config.model import Config
from tollhouse.config.secrets import resolve_secrets
from tollhouse.errors import StartError

VALID = """\
[server]
host = "127.0.0.1"
port = 8080
[auth]
admin_key = "env:TOLLHOUSE_ADMIN_KEY" # "quoted"
[providers.anthropic]
kind = "anthropic"
base_url = "https://api.anthropic.com"
timeout_s = 6_0.5e0
[models."claude-haiku-4-5"]
provider = 'anthropic'
fallbacks = [
  "small", # [comment]
]
price = { input = 0.80, output = 4.00 }
[models.small]
provider = \"\"\"anthropic\"\"\"
price.input = 0x1
price.output = 1979
[tiers.growth]
budget_usd = 10.00
"""
VARIABLES = [
    "TOLLHOUSE_SERVER__PORT",
    "TOLLHOUSE_MODELS__SMALL__FALLBACKS",
    "TOLLHOUSE_MODELS__SMALL__PRICE__INPUT",
    "TOLLHOUSE_MODELS__SMALL__PRICE",
    "TOLLHOUSE_AUTH__PEPPER",
    "TOLLHOUSE_PROVIDERS__NEW__TIMEOUT_S",
    "TOLLHOUSE_DATABASE__URL",
]
FRAGMENTS = [
    *("[", "]", "{", "}", "=", ".", ",", '"', "'", '"""', "'''", "\n", "#", "\\", "\x00", "é", "-", "1e9", "nan"),
    *("inf", "true", "server", "[[models]]", "[models]", "price", "env:", "file:/", "@", "99999999999999999999", "_"),
]


def outcome(content: bytes, environ: dict[str, str]) -> Config | str:
    with tempfile.NamedTemporaryFile(suffix=".toml") as file:
        Path(file.name).write_bytes(content)
        try:
            config = load_config(Path(file.name), environ)
            resolve_secrets(config, environ)
        except StartError as error:
            return str(error)
    return config


@st.composite
def mutations(draw):
    text = VALID
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        end = draw(st.integers(start, min(len(text), start + 12)))
        text = text[:start] + draw(st.sampled_from(FRAGMENTS) | st.text(max_size=5)) + text[end:]
    return text


environments = st.dictionaries(
    st.sampled_from(VARIABLES) | st.text("AMPRST_1", max_size=12).map("TOLLHOUSE_".__add__),
    st.text(max_size=8) | st.sampled_from(["1", "-1", "0.5", "nan", "1e999999999", "small", "env:X", "file:/"]),
    max_size=3,
)


def test_the_text_that_is_mutated_is_valid():
    assert isinstance(outcome(VALID.encode(), {"TOLLHOUSE_ADMIN_KEY": "k" * 24}), Config)


@given(mutations(), environments)
@settings(max_examples=200, deadline=None)
def test_a_mutated_configuration_loads_or_is_refused_with_a_message(text, environ):
    result = outcome(text.encode("utf-8", "surrogatepass"), environ)
    assert isinstance(result, Config) or result.strip()


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode), environments)
@settings(max_examples=100, deadline=None)
def test_arbitrary_bytes_load_or_are_refused_with_a_message(content, environ):
    result = outcome(content, environ)
    assert isinstance(result, Config) or result.strip()


@given(mutations())
@settings(max_examples=300, deadline=None)
def test_every_key_of_any_valid_toml_is_located_within_the_text(text):
    try:
        tree = tomllib.loads(text)
    except ValueError:
        return
    lines = locate(text)

    assert {path[0] for path in lines} == set(tree)
    assert all(1 <= line <= text.count("\n") + 1 for line in lines.values())
    for name, value in tree.items():
        if isinstance(value, dict) and text.count(f"[{name}") and not text.count("{"):
            assert {path[1] for path in lines if path[0] == name and len(path) > 1} == set(value)


names = st.text("abc\"'\\.= #[]é\t", min_size=0, max_size=5)
values = st.one_of(
    st.sampled_from(
        ['"""\n[x]\ny = 1\n"""', "'''\n#'\n[z]'''", "[\n 1, # ]\n [2],\n]", "{ k = ']' }", "0.5", '"#"', "''"]
    )
)


@given(st.dictionaries(names, st.dictionaries(names, values, max_size=4), max_size=4), st.data())
@settings(max_examples=200, deadline=None)
def test_each_key_is_located_on_the_line_where_it_was_written(tables, data):
    text = ""
    expected: dict[tuple[str, ...], int] = {}
    for table, keys in tables.items():
        text += data.draw(st.sampled_from(["", "\n", "# [c]\n"]))
        expected[table,] = text.count("\n") + 1
        text += f"[{json.dumps(table)}]\n"
        for key, value in keys.items():
            expected[table, key] = text.count("\n") + 1
            text += f"{json.dumps(key)} = {value} # {key!r}\n"

    tomllib.loads(text)

    assert locate(text) == expected

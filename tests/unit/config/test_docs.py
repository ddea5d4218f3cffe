"""docs/configuration.md names every key that there is, with its true bounds and default, and none besides."""

import json
import re
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec

from tollhouse.config.load import load_config
from tollhouse.config.model import REFERENCE_TIERS
from tollhouse.config.schema import ROOT, Names, Table, Value, node_of

DOC = (Path(__file__).parents[3] / "docs" / "configuration.md").read_text(encoding="utf-8")


def rows_of(table: Table, prefix: str = "") -> Iterator[tuple[str, str, str]]:
    for name, field in table.fields().items():
        node = node_of(field.type)
        if isinstance(node, Table):
            yield from rows_of(node, f"{prefix}{name}.")
        elif isinstance(node, Names) and isinstance(node.entry, Table):
            yield from rows_of(node.entry, f"{prefix}{name}.NAME.")
        elif isinstance(node, Names):
            assert isinstance(node.entry, Value)
            yield f"{prefix}{name}.NAME", node.entry.expected, "none"
        else:
            assert isinstance(node, Value)
            yield f"{prefix}{name}", node.expected, default_of(field)


def default_of(field: Any) -> str:
    if field.required:
        return "required"
    match field.default:
        case None:
            return "none"
        case bool(default):
            return f"`{str(default).lower()}`"
        case tuple():
            return f"`{json.dumps(field.default)}`"
        case bool():
            return f"`{str(field.default).lower()}`"
        case msgspec.NODEFAULT:
            raise AssertionError("a value whose default is made by a function")
        case default:
            return f"`{default}`"


def test_the_document_describes_exactly_the_keys_there_are_with_their_bounds_and_defaults():
    in_schema = set()
    for section, field in ROOT.fields().items():
        node = node_of(field.type)
        assert not isinstance(node, Value)
        heading, table = (f"{section}.NAME", node.entry) if isinstance(node, Names) else (section, node)
        assert isinstance(table, Table)
        in_schema |= {(heading, *row) for row in rows_of(table)}

    in_document = set()
    for heading, body in re.findall(r"^## `\[([\w.]+)\]`$(.*?)(?=^## |\Z)", DOC, re.MULTILINE | re.DOTALL):
        for key, expected, default, meaning in re.findall(
            r"^\| `([\w.]+)` \| (.*?) \| (.*?) \| (.*?) \|$", body, re.MULTILINE
        ):
            assert meaning.endswith("."), key
            in_document.add((heading, key, expected, default))

    assert in_document == in_schema


def test_the_documents_example_is_a_configuration_that_loads(tmp_path):
    examples = re.findall(r"^```toml\n(.*?)^```", DOC, re.MULTILINE | re.DOTALL)
    file = tmp_path / "tollhouse.toml"
    file.write_text(examples[0], encoding="utf-8")

    config = load_config(file, {})

    assert config.models["claude-haiku-4-5"].fallbacks == ("small",)
    assert len(examples) == 1


def test_every_override_in_the_document_is_one_that_works(tmp_path):
    overrides = dict(re.findall(r"^\| `(TOLLHOUSE_\w+__\w+)=(\S+)` \|", DOC, re.MULTILINE))
    overrides["TOLLHOUSE_MODELS__SMALL__FALLBACKS"] = "claude-haiku-4-5"
    file = tmp_path / "tollhouse.toml"
    file.write_text(re.findall(r"^```toml\n(.*?)^```", DOC, re.MULTILINE | re.DOTALL)[0], encoding="utf-8")

    config = load_config(file, overrides)

    assert len(overrides) == 5
    assert config.server.port == 9000
    assert config.tiers["pro"].budget_usd == Decimal(25)


def test_the_document_tells_the_budgets_of_the_reference_tiers():
    for name, tier in REFERENCE_TIERS.items():
        assert f"`{name}` with ${tier.budget_usd}" in DOC

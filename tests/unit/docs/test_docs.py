"""The documents name what exists, and nothing else."""

import re
from pathlib import Path

from tollhouse import errors
from tollhouse.completions.model import CompleteBody, Envelope
from tollhouse.storage.schema import ai_usage_log, cluster_metadata, metadata

ROOT = Path(__file__).resolve().parents[3]


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text()


def named(text: str) -> set[str]:
    """Every word in backquotes."""
    return {word for quoted in re.findall(r"`([^`]+)`", text) for word in re.findall(r"[a-z_0-9]+", quoted)}


def test_no_table_is_described_that_does_not_exist():
    described = set(re.findall(r"`((?:ai|tenant)_[a-z_]+)`", page("tables.md")))
    assert described - set(metadata.tables) - set(cluster_metadata.tables) <= set(ai_usage_log.columns.keys())


def test_every_table_is_described():
    described = set(re.findall(r"`((?:ai|tenant)_[a-z_]+)`", page("tables.md")))
    assert set(metadata.tables) | set(cluster_metadata.tables) <= described


def test_every_column_of_the_ledger_is_described():
    section = page("tables.md").split("## `ai_usage_log`")[1].split("\n## ")[0]
    assert set(ai_usage_log.columns.keys()) <= named(section)


def all_errors(base: type[errors.TollhouseError]) -> list[type[errors.TollhouseError]]:
    return [base, *(deeper for each in base.__subclasses__() for deeper in all_errors(each))]


def test_every_error_code_is_described_with_its_status():
    rows = [line for line in page("api.md").splitlines() if line.startswith("| ")]
    for error in all_errors(errors.TollhouseError):
        assert any(row.startswith(f"| {error.status} |") and f"`{error.code}`" in row for row in rows), error


def test_every_field_of_a_call_and_of_its_answer_is_described():
    assert {*CompleteBody.__struct_fields__, *Envelope.__struct_fields__} - {"stream"} <= named(page("api.md"))


def risks() -> dict[str, str]:
    """Return what the page on security says of each risk."""
    paragraphs = page("security.md").split("\n\n")
    found = {match[1]: text for text in paragraphs if (match := re.match(r"\*\*((?:API|LLM)\d+) ", text))}
    assert len(found) == sum(text.startswith(("**API", "**LLM")) for text in paragraphs)
    return found


def test_every_risk_of_both_lists_is_answered_with_a_test():
    told = risks()
    assert set(told) == {f"API{number}" for number in range(1, 11)} | {f"LLM{number:02}" for number in range(1, 11)}
    for risk, text in told.items():
        assert re.search(r"`test_\w+`", text), risk


def test_every_test_that_is_named_as_a_proof_exists():
    there = {
        name
        for path in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)\(", path.read_text(), re.MULTILINE)
    }
    named_as_proof = set(re.findall(r"`(test_\w+)`", page("security.md")))
    assert named_as_proof - there == set()


def test_links_between_the_pages_lead_somewhere():
    for path in [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]:
        for target in re.findall(r"\]\((?!http)([^)#]+)", path.read_text()):
            assert (path.parent / target).exists(), f"{path.name}: {target}"

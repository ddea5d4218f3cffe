"""The commands, on a real database: alone, and beside a server that owns it."""

import json
import re
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from harness import engines
from harness.cli import Cli, without_logs
from harness.service import Service, change_by_hand, eventually, model, provider
from tollhouse.cli import session
from tollhouse.storage.lock import DatabaseLock
from tollhouse.storage.schema import REVISION
from tollhouse.testing import Behaviour, FakeProvider

BODY = {"user_id": 101, "feature_slug": "summary", "model": "small", "user_message": "Hello.", "max_tokens": 50}
GROUPS = ("user", "feature", "model", "provider", "service", "day")
ON_SQLITE = pytest.mark.engine("sqlite")


@pytest.fixture(autouse=True)
def no_logs() -> Iterator[None]:
    with without_logs():
        yield


@pytest.fixture(scope="module")
def fake() -> Iterator[FakeProvider]:
    with FakeProvider() as fake:
        fake.behave(Behaviour(input_tokens=100, output_tokens=20))
        yield fake


@pytest.fixture(scope="module")
def served(engine: engines.Engine, tmp_path_factory: pytest.TempPathFactory, fake: FakeProvider) -> Iterator[Service]:
    config = provider("fake", "openai", fake.base_url("openai")) + model("small", "fake")
    with Service(tmp_path_factory.mktemp("served"), config) as service:
        yield service


@pytest.fixture
def alone(tmp_path: Path) -> Cli:
    file = tmp_path / "tollhouse.toml"
    file.write_text(f'[database]\nurl = "{engines.database_url(tmp_path / "tollhouse.db")}"\n')
    return Cli(file)


# On PostgreSQL a command asks no server, whether one runs or not.
@pytest.fixture(params=["alone", pytest.param("beside a server", marks=ON_SQLITE)])
def cli(request: pytest.FixtureRequest) -> Cli:
    if request.param == "alone":
        cli: Cli = request.getfixturevalue("alone")
        return cli
    served: Service = request.getfixturevalue("served")
    return Cli(served.config_file)


# Tenants.


def test_a_tenant_is_created_active_on_its_tier_and_with_its_budget(cli):
    said = cli("tenant", "create", "t1", "--tier", "growth", "--budget-usd", "12.345678901", "--name", "First")

    assert said == "Tenant t1 created: tier growth, $12.345678901 a month, active.\n"
    [tenant] = [each for each in cli.json("tenant", "list")["tenants"] if each["tenant_id"] == "t1"]
    assert (tenant["name"], tenant["tier"], tenant["is_active"]) == ("First", "growth", True)
    assert (tenant["budget_usd"], tenant["has_own_budget"]) == (Decimal("12.345678901"), True)


def test_a_tenant_may_be_created_inactive_and_takes_the_default_tier_and_its_budget(cli):
    created = cli.json("tenant", "create", "t2", "--inactive", "--expires-at", "2030-01-01T00:00:00+01:00")

    assert (created["tier"], created["is_active"], created["has_own_budget"]) == ("starter", False, False)
    assert (created["budget_usd"], created["expires_at"]) == (2, "2029-12-31T23:00:00.000Z")


def test_a_tenant_is_not_created_twice(cli):
    cli("tenant", "create", "t3")

    refusal = cli.refusal("tenant", "create", "t3", "--budget-usd", "1000000")

    expected = "there is a tenant t3 already; `tollhouse tenant set t3` changes it"
    assert refusal == f"tollhouse: error: {expected}\n"


def test_what_is_not_given_of_a_tenant_stays_as_it_is(cli):
    cli("tenant", "create", "t4", "--tier", "growth", "--budget-usd", "5", "--name", "Fourth")

    said = cli("tenant", "set", "t4", "--inactive", "--expires-at", "2030-01-01T00:00:00Z")
    assert said == "Tenant t4 changed: tier growth, $5.00 a month, inactive until 2030-01-01T00:00:00.000Z.\n"

    changed = cli.json("tenant", "set", "t4", "--tier-budget", "--active", "--expires-at", "never")
    assert (changed["name"], changed["is_active"], changed["expires_at"]) == ("Fourth", True, None)
    assert (changed["budget_usd"], changed["has_own_budget"]) == (10, False)


def test_changing_a_tenant_creates_none(cli):
    assert "there is no tenant t5;" in cli.refusal("tenant", "set", "t5", "--active")

    assert "t5" not in [tenant["tenant_id"] for tenant in cli.json("tenant", "list")["tenants"]]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--tier", "gold"], "tier: no tier 'gold' is configured; expected one of"),
        (["--budget-usd", "-1"], "budget_usd: expected an amount in USD from 0 to 1000000000"),
        (["--budget-usd", "0.0000000001"], "budget_usd: expected at most 9 decimal places"),
        (["--expires-at", "tomorrow"], "expires_at: "),
    ],
)
def test_what_the_service_does_not_take_is_refused_in_its_words(cli, arguments, said):
    assert f"tollhouse: error: {said}" in cli.refusal("tenant", "create", "t6", *arguments)


@ON_SQLITE
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["tenant", "create", "t7", "--budget-usd", "ten"], "'ten': expected an amount in USD, such as 10 or 0.50"),
        (["tenant", "create", "t7", "--budget-usd", "NaN"], "'NaN': expected an amount in USD"),
        (["tenant", "set", "t7"], "nothing to change: give at least one option"),
        (["tenant", "set", "t7", "--tier-budget", "--budget-usd", "1"], "exclude each other"),
        (["budget", "set", "--user", "1", "--budget-usd", "1"], "expected --tenant with --user"),
        (["budget", "remove", "--tenant", "1", "--user", "1", "--key", "k"], "expected --tenant with --user"),
        (["usage", "--group-by", "user"], "--group-by needs --tenant"),
        (["key", "create"], "Missing option '--service'"),
        (["key", "create", "--service", "s", "--role", "root"], "'root' is not one of 'service'"),
    ],
)
def test_what_a_command_line_cannot_mean_is_refused_before_anything_is_opened(alone, arguments, said):
    assert said in alone.refusal(*arguments, exit_code=2)
    assert not alone.file.with_name("tollhouse.db").exists()


def test_all_tenants_are_listed_however_many_there_are(alone, monkeypatch):
    monkeypatch.setattr("tollhouse.cli.tenants._PAGE", 2)
    for number in range(5):
        alone("tenant", "create", f"t{number}")

    lines = alone("tenant", "list").splitlines()

    assert lines[0].split()[:4] == ["TENANT", "NAME", "TIER", "ACTIVE"]
    assert [line.split()[0] for line in lines[1:]] == ["t0", "t1", "t2", "t3", "t4"]


# Features, keys and budgets.


def test_a_feature_is_switched_off_and_on(cli):
    cli("tenant", "create", "f1")

    assert cli("feature", "disable", "f1", "chat") == "Feature chat of tenant f1 is off.\n"
    assert cli.json("feature", "list", "f1")["features"][0]["is_enabled"] is False
    assert cli("feature", "enable", "f1", "chat") == "Feature chat of tenant f1 is on.\n"
    assert re.search(r"^chat +yes +- ", cli("feature", "list", "f1"), re.MULTILINE)


def test_a_feature_of_an_unknown_tenant_is_refused(cli):
    assert "there is no tenant nobody;" in cli.refusal("feature", "disable", "nobody", "chat")


def test_a_key_is_shown_once_and_listed_without_itself(cli):
    said = cli("key", "create", "--service", "shop", "--tenant", "1", "--tenant", "b", "--budget-usd", "0.5")

    key_id, key = re.findall(r"\b(key_\w+)\b.*?(th_\S+)", said, re.DOTALL)[0]
    assert f"Key {key_id} created for service shop (role service, tenant 1, b):" in said
    listed = cli("key", "list")
    assert re.search(rf"^{key_id} +shop +service +1, b +- +\$0\.50 ", listed, re.MULTILINE)
    assert key not in listed + cli("audit") + cli("key", "list", "--json")


def test_a_key_may_be_made_for_every_tenant_with_a_role_and_a_feature(cli):
    created = cli.json("key", "create", "--service", "reports", "--role", "reader", "--feature", "summary")

    assert (created["role"], created["tenants"], created["feature_slug"]) == ("reader", None, "summary")
    assert created["key"].startswith("th_")


def test_a_key_is_revoked(cli):
    key_id = cli.json("key", "create", "--service", "gone")["key_id"]

    assert cli("key", "revoke", key_id) == f"Key {key_id} is revoked.\n"

    [key] = [key for key in cli.json("key", "list")["keys"] if key["key_id"] == key_id]
    assert key["revoked_at"] is not None
    assert "there is no service key key_0;" in cli.refusal("key", "revoke", "key_0")


def test_users_features_and_keys_are_capped_and_the_caps_lifted(cli):
    cli("tenant", "create", "b1", "--budget-usd", "10")
    key_id = cli.json("key", "create", "--service", "shop")["key_id"]

    said = cli("budget", "set", "--tenant", "b1", "--user", "101", "--budget-usd", "1.50")
    assert said == "User 101 may spend $1.50 a month; $0.00 of it is spent, $0.00 reserved.\n"
    assert cli("budget", "set", "--tenant", "b1", "--feature", "chat", "--budget-usd", "2").startswith("Feature chat ")
    assert cli.json("budget", "set", "--key", key_id, "--budget-usd", "3")["budget_usd"] == 3

    lines = cli("budget", "list", "--tenant", "b1").splitlines()
    assert re.fullmatch(r"Budgets of tenant b1 in \d{4}-\d{2}:", lines[0])
    assert {tuple(line.split()[:3]) for line in lines[3:]} == {
        ("tenant", "-", "$10.00"),
        ("user", "101", "$1.50"),
        ("feature", "chat", "$2.00"),
    }

    assert cli("budget", "remove", "--tenant", "b1", "--user", "101") == "User 101 has no cap of its own any more.\n"
    assert cli.json("budget", "remove", "--key", key_id) == {"removed": {"key_id": key_id}}
    assert "user 101 of tenant b1 has no cap" in cli.refusal("budget", "remove", "--tenant", "b1", "--user", "101")
    assert {budget["scope"] for budget in cli.json("budget", "list", "--tenant", "b1")["budgets"]} == {
        "tenant",
        "feature",
    }


def test_ids_with_characters_that_paths_know_stay_one_id(cli):
    cli("tenant", "create", "a b?c#d%e")

    assert "a b?c#d%e" in [tenant["tenant_id"] for tenant in cli.json("tenant", "list")["tenants"]]
    cli("feature", "disable", "a b?c#d%e", "x y")
    assert cli.json("feature", "list", "a b?c#d%e")["features"][0]["feature_slug"] == "x y"


def test_the_audit_log_tells_what_changed_the_newest_first(cli):
    cli("tenant", "create", "a1", "--budget-usd", "5")
    cli("tenant", "set", "a1", "--budget-usd", "7.5", "--inactive")
    cli("feature", "disable", "a1", "chat")

    lines = cli("audit", "--tenant", "a1").splitlines()

    assert [line.split()[2] for line in lines[1:]] == ["feature.updated", "tenant.updated", "tenant.created"]
    assert lines[2].endswith("is_active: true → false, budget: $5.00 → $7.50")
    assert len(cli.json("audit", "--tenant", "a1", "--limit", "2")["entries"]) == 2
    assert cli("audit", "--tenant", "a1", "--action", "key.revoked") == "No such entries.\n"


# Usage, and the two ways to the data.


def test_commands_say_the_same_beside_a_server_and_without_one(tmp_path, fake, engine):
    config = provider("fake", "openai", fake.base_url("openai")) + model("small", "fake")
    reads = [
        ("tenant", "list"),
        ("feature", "list", "42"),
        ("key", "list"),
        ("budget", "list", "--tenant", "42"),
        ("usage",),
        ("usage", "--tenant", "42"),
        *(("usage", "--tenant", "42", "--group-by", group) for group in GROUPS),
        ("usage", "--tenant", "42", "--period", "2020-01", "--group-by", "user"),
        ("audit",),
        ("verify",),
        ("migrate",),
    ]
    wrong = [("usage", "--tenant", "42", "--period", "April"), ("key", "revoke", "key_0")]
    with Service(tmp_path, config) as service:
        cli = Cli(service.config_file)
        cli("tenant", "create", "42", "--tier", "growth", "--budget-usd", "10")
        cli("feature", "disable", "42", "chat")
        key = cli.json("key", "create", "--service", "shop", "--tenant", "42")["key"]
        for user_id in (101, 101, 102):
            assert service.complete(BODY | {"user_id": user_id}, key=key).status == 200

        def everything() -> list[object]:
            told: list[object] = [cli(*arguments) for arguments in reads]
            told += [cli.json(*arguments) for arguments in reads]
            return told + [cli.refusal(*arguments) for arguments in wrong]

        # What was counted of a key's use is entered a moment later.
        eventually(lambda: service.query("SELECT 1 AS one FROM ai_audit_log WHERE action = 'key.first_used'"))
        beside = everything()
        assert service.terminate() == 0
        if engine == "sqlite":
            assert everything() == beside

    by_user = cli("usage", "--tenant", "42", "--group-by", "user").splitlines()
    assert by_user[2].split()[:3] == ["USER", "CALLS", "TOKENS"]
    assert [line.split()[:3] for line in by_user[3:]] == [["101", "2", "240"], ["102", "1", "120"]]
    assert cli.json("usage", "--tenant", "42")["cost_usd"] == Decimal("0.00048")
    assert cli("usage").splitlines()[1].split()[:4] == ["42", "growth", "$10.00", "$0.00048"]


def test_what_commands_change_holds_in_the_running_server(served, engine):
    cli = Cli(served.config_file)
    cli("tenant", "create", "901", "--tier", "growth")
    created = cli.json("key", "create", "--service", "shop", "--tenant", "901")

    def call():
        return served.complete(BODY | {"tenant_id": 901}, key=created["key"])

    if engine == "postgresql":
        # The command was an instance of its own there, and keys are told from one to the other.
        eventually(lambda: call().status == 200, timeout_s=1.0)
    assert call().status == 200
    cli("feature", "disable", "901", "summary")
    assert call().code == "ai_feature_disabled"
    cli("feature", "enable", "901", "summary")
    cli("tenant", "set", "901", "--budget-usd", "0")
    assert call().code == "ai_budget_exceeded"
    cli("tenant", "set", "901", "--tier-budget", "--inactive")
    assert call().code == "ai_module_inactive"
    cli("key", "revoke", created["key_id"])
    if engine == "postgresql":
        eventually(lambda: call().status == 401, timeout_s=1.0)
    assert call().code == "ai_unauthorized"


@ON_SQLITE
def test_a_database_that_another_command_holds_for_too_long_is_told_of(alone, monkeypatch):
    monkeypatch.setattr(session, "_PATIENCE_S", 0.2)
    with DatabaseLock(alone.file.with_name("tollhouse.db")):
        refusal = alone.refusal("tenant", "list", exit_code=2)

    assert re.search(r"tollhouse\.db: the database is in use by process \d+; it can have one owner", refusal)


def test_commands_need_no_provider_key(tmp_path):
    file = tmp_path / "tollhouse.toml"
    config = provider("fake", "openai", "http://127.0.0.1:9/v1").replace("TEST_PROVIDER_KEY", "NOT_SET_ANYWHERE")
    file.write_text(f'[database]\nurl = "{engines.database_url(tmp_path / "t.db")}"\n{config}')

    assert Cli(file)("tenant", "list") == "There are no tenants yet; `tollhouse tenant create ID` makes one.\n"


# verify and migrate.


@pytest.fixture
def with_a_call(tmp_path: Path, fake: FakeProvider) -> Cli:
    """A database with a call in it, and no server."""
    config = provider("fake", "openai", fake.base_url("openai")) + model("small", "fake")
    with Service(tmp_path, config) as service:
        service.tenant(42)
        assert service.complete(BODY | {"tenant_id": 42}).status == 200
        assert service.terminate() == 0
    return Cli(service.config_file)


def test_books_that_were_changed_by_hand_are_not_consistent_and_the_rows_are_listed(with_a_call):
    said = with_a_call("verify")
    assert said.startswith("Consistent (ledger rows: 1, tenants: 1, budgets: 1, reservations: 0, audit entries: ")
    change_by_hand(with_a_call.database_url, "UPDATE ai_budgets SET posted_nano_usd = posted_nano_usd - 1")

    result = with_a_call.run("verify")

    assert result.exit_code == 1
    assert "NOT consistent (ledger rows: 1" in result.stdout
    row = next(line for line in result.stdout.splitlines() if line.startswith("ai_budgets"))
    assert "'42'" in row
    assert "posted_nano_usd is 159999, the ledger and the reservations give 160000" in row
    as_json = with_a_call.run("verify", "--json")
    assert as_json.exit_code == 1
    report = json.loads(as_json.stdout)
    assert (report["entries"], report["finding_count"], report["findings"][0]["table"]) == (1, 1, "ai_budgets")


@ON_SQLITE
def test_a_database_that_is_not_there_cannot_be_verified(alone):
    assert "tollhouse.db: no such file" in alone.refusal("verify", exit_code=2)
    assert not alone.file.with_name("tollhouse.db").exists()


@ON_SQLITE
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty; expected schema"),
        (b"no database" * 500, "cannot be read as a database: file is not a database"),
    ],
)
def test_what_is_no_database_of_ours_cannot_be_verified(alone, content, said):
    alone.file.with_name("tollhouse.db").write_bytes(content)

    assert said in alone.refusal("verify", exit_code=2)


@ON_SQLITE
def test_a_database_is_made_by_migrate_and_then_left_alone(alone):
    path = alone.file.with_name("tollhouse.db")

    assert alone("migrate") == f"{path} was created, at schema {REVISION}\n"
    assert alone("migrate").endswith(f"is at schema {REVISION}, the newest this version knows: nothing to do\n")
    assert alone.json("migrate") == {"database": str(path), "revision_before": REVISION, "revision": REVISION}
    assert alone("verify").startswith("Consistent (ledger rows: 0")


def test_a_newer_database_is_not_migrated(alone, engine):
    alone("migrate")
    change_by_hand(alone.database_url, "UPDATE alembic_version SET version_num = '9999'")

    assert "is at schema 9999" in alone.refusal("migrate", exit_code=2)
    assert "is at schema 9999" in alone.refusal("verify", exit_code=2)
    if engine == "sqlite":
        assert alone.findings()["database"][0] == "warning"
    else:
        assert alone.findings(exit_code=1)["database"][0] == "failed"

"""Administration over real HTTP, on a real database."""

import http.client
import json
from decimal import Decimal

import pytest

from tollhouse.errors import Unavailable

ROLES = ("service", "reader", "super-admin")
ADMIN_ROUTES = [
    ("GET", "/admin/tenants", None),
    ("GET", "/admin/tenants/role-1", None),
    ("PUT", "/admin/tenants/role-1", {"is_active": True}),
    ("GET", "/admin/tenants/role-1/features", None),
    ("PUT", "/admin/tenants/role-1/features/f", {"is_enabled": True}),
    ("GET", "/admin/tenants/role-1/budgets", None),
    ("PUT", "/admin/tenants/role-1/budgets/user/7", {"budget_usd": 1}),
    ("DELETE", "/admin/tenants/role-1/budgets/user/7", None),
    ("GET", "/admin/keys", None),
    ("POST", "/admin/keys", {"service": "s", "role": "super-admin"}),
    ("PUT", "/admin/keys/key_0/budget", {"budget_usd": 1}),
    ("DELETE", "/admin/keys/key_0/budget", None),
    ("DELETE", "/admin/keys/key_0", None),
    ("GET", "/admin/audit", None),
]


# Tenants.


def test_a_new_tenant_is_off_on_the_default_tier_and_gets_that_tiers_budget(plane):
    answer = plane("PUT", "/admin/tenants/new-1", {})
    assert answer.status == 200
    created = answer.json
    assert created.pop("created_at") == created.pop("updated_at") == "2026-04-04T10:53:20.000Z"
    assert created == {
        "tenant_id": "new-1",
        "name": "",
        "tier": "starter",
        "is_active": False,
        "expires_at": None,
        "budget_usd": 2,
        "has_own_budget": False,
    }
    assert plane("GET", "/admin/tenants/new-1").json["tier"] == "starter"


def test_what_a_put_leaves_out_stays_as_it_is(plane):
    plane.tenant(200, name="Acme", tier="growth", budget_usd=7, expires_at="2030-01-01T00:00:00Z")
    after = plane("PUT", "/admin/tenants/200", {"name": "Acme Ltd"}).json
    assert (after["name"], after["tier"], after["budget_usd"], after["is_active"]) == ("Acme Ltd", "growth", 7, True)
    assert after["expires_at"] == "2030-01-01T00:00:00.000Z"
    assert after["tenant_id"] == 200
    cleared = plane("PUT", "/admin/tenants/200", {"expires_at": None, "is_active": False}).json
    assert (cleared["expires_at"], cleared["is_active"], cleared["name"]) == (None, False, "Acme Ltd")


def test_a_budget_follows_the_tier_unless_it_is_the_tenants_own(plane):
    assert plane.tenant(201)["budget_usd"] == 2
    assert plane.tenant(201, tier="growth")["budget_usd"] == 10
    own = plane.tenant(201, budget_usd=3)
    assert (own["budget_usd"], own["has_own_budget"]) == (3, True)
    assert plane.tenant(201, tier="starter")["budget_usd"] == 3
    back = plane.tenant(201, budget_usd=None)
    assert (back["budget_usd"], back["has_own_budget"]) == (2, False)
    # Tier and budget in one change.
    both = plane.tenant(201, tier="growth", budget_usd=4)
    assert (both["budget_usd"], both["tier"]) == (4, "growth")
    both = plane.tenant(201, tier="starter", budget_usd=None)
    assert (both["budget_usd"], both["has_own_budget"]) == (2, False)


def test_amounts_are_exact_to_the_nano_dollar_in_both_directions(plane):
    raw = plane("PUT", "/admin/tenants/202", '{"budget_usd": 123456789.123456789}')
    assert b'"budget_usd":123456789.123456789' in raw.body
    assert plane("PUT", "/admin/tenants/202", '{"budget_usd": 0.1}').json["budget_usd"] == Decimal("0.1")
    assert plane("PUT", "/admin/tenants/202", '{"budget_usd": 1e-9}').json["budget_usd"] == Decimal("1e-9")


@pytest.mark.parametrize(
    "amount",
    ["-0.01", "1e-10", "0.0000000001", "1000000001", "1e400", '"NaN"', '"sNaN"', '"Infinity"', "true", "[]", '"x"'],
)
def test_what_is_no_budget_is_refused_by_name(plane, amount):
    answer = plane("PUT", "/admin/tenants/203", f'{{"budget_usd": {amount}}}')
    assert answer.status == 422
    code, message = answer.error
    assert code == "ai_invalid_request"
    assert message.startswith("budget_usd: ")
    assert plane("GET", "/admin/tenants/203").status == 404


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ('{"teir": "growth"}', "teir: unknown field; did you mean 'tier'?"),
        ('{"tier": "gold"}', "tier: no tier 'gold' is configured; expected one of growth, starter"),
        ('{"is_active": "true"}', "is_active: expected `bool`"),
        ('{"is_active": 1}', "is_active: expected `bool`"),
        ('{"expires_at": "2030-01-01T00:00:00"}', "expires_at: expected `datetime` with a timezone"),
        ('{"expires_at": "tomorrow"}', "expires_at: invalid RFC3339"),
        ('{"expires_at": 1893456000}', "expires_at: expected"),
        ('{"expires_at": "0001-01-01T00:00:00+14:00"}', "expires_at: expected a time from the year 1970 to 9999"),
        ('{"expires_at": "9999-12-31T23:59:59-14:00"}', "expires_at: expected a time from the year 1970 to 9999"),
        ('{"name": "a\\u0000b"}', "name: expected 1 to 200 printable"),
        ("", "the body is missing"),
        ("{", "the body is not valid JSON"),
        ("[]", "the body: expected `object`"),
        (b'{"name": "\xff"}', "the body is not valid JSON"),
    ],
)
def test_a_malformed_change_is_refused_with_what_was_expected(plane, body, said):
    answer = plane("PUT", "/admin/tenants/204", body)
    assert answer.status == 422
    assert answer.error[1].startswith(said)
    assert plane("GET", "/admin/tenants/204").status == 404


def test_an_expiry_is_kept_in_utc(plane):
    assert plane.tenant(205, expires_at="2026-12-31T23:30:00+02:30")["expires_at"] == "2026-12-31T21:00:00.000Z"


@pytest.mark.parametrize(
    "tenant_id", ["1' OR '1'='1", 'x"; DROP TABLE ai_usage_log; --', "a/b%2F?c#d", "ünï 漢字", "%"]
)
def test_an_id_is_only_ever_an_id(plane, tenant_id):
    from urllib.parse import quote

    assert plane.tenant(tenant_id)["tenant_id"] == tenant_id
    path = f"/admin/tenants/{quote(tenant_id, safe='')}"
    assert plane("GET", path).json["tenant_id"] == tenant_id
    assert plane("PUT", f"{path}/features/{quote(tenant_id, safe='')}", {"is_enabled": False}).status == 200
    assert [f["feature_slug"] for f in plane("GET", f"{path}/features").json["features"]] == [tenant_id]
    assert plane.audit(f"tenant_id={quote(tenant_id, safe='')}")[-1]["tenant_id"] == tenant_id
    assert plane("GET", f"/ai/usage?tenant_id={quote(tenant_id, safe='')}").json["tenant_id"] == tenant_id


@pytest.mark.parametrize("tenant_id", ["x" * 65, "a%00b", "a%0Ab"])
def test_an_id_that_no_call_could_carry_is_refused(plane, tenant_id):
    answer = plane("PUT", f"/admin/tenants/{tenant_id}", {})
    assert (answer.status, answer.error[0]) == (422, "ai_invalid_request")
    assert answer.error[1] == "tenant_id: expected 1 to 64 printable characters"


def test_ids_of_digits_are_integers_and_others_stay_text(plane):
    assert [plane.tenant(each)["tenant_id"] for each in ("206", "0206", "206a", "1" * 20)] == [
        206,
        "0206",
        "206a",
        "1" * 20,
    ]


def test_tenants_are_listed_page_by_page(fresh_plane):
    for number in range(5):
        fresh_plane.tenant(f"t{number}")
    first = fresh_plane("GET", "/admin/tenants?limit=2").json
    assert [tenant["tenant_id"] for tenant in first["tenants"]] == ["t0", "t1"]
    second = fresh_plane("GET", f"/admin/tenants?limit=2&after={first['next_after']}").json
    assert [tenant["tenant_id"] for tenant in second["tenants"]] == ["t2", "t3"]
    last = fresh_plane("GET", f"/admin/tenants?limit=2&after={second['next_after']}").json
    assert ([tenant["tenant_id"] for tenant in last["tenants"]], last["next_after"]) == (["t4"], None)
    assert fresh_plane("GET", "/admin/tenants?limit=5").json["next_after"] is None


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=x", "limit=", "limit=1.5"])
def test_a_limit_out_of_range_is_refused_by_name(plane, query):
    answer = plane("GET", f"/admin/tenants?{query}")
    assert (answer.status, answer.error[0]) == (422, "ai_invalid_request")
    assert answer.error[1].startswith("limit: expected")


@pytest.mark.parametrize("path", ["", "/features", "/budgets"])
def test_a_tenant_that_was_never_set_up_is_not_found(plane, path):
    assert plane("GET", f"/admin/tenants/nobody{path}").error[0] == "ai_not_found"
    assert plane("PUT", "/admin/tenants/nobody/features/f", {"is_enabled": True}).status == 404
    assert plane("PUT", "/admin/tenants/nobody/budgets/user/1", {"budget_usd": 1}).status == 404


# Features.


def test_a_feature_is_switched_and_capped_in_any_combination(plane):
    plane.tenant(300)
    path = "/admin/tenants/300/features/sales-summary"
    off = plane("PUT", path, {"is_enabled": False}).json
    assert (off["is_enabled"], off["budget_usd"], off["feature_slug"]) == (False, None, "sales-summary")
    capped = plane("PUT", path, {"budget_usd": 1.5}).json
    assert (capped["is_enabled"], capped["budget_usd"]) == (False, Decimal("1.5"))
    on = plane("PUT", path, {"is_enabled": True}).json
    assert (on["is_enabled"], on["budget_usd"]) == (True, Decimal("1.5"))
    lifted = plane("PUT", path, {"budget_usd": None}).json
    assert (lifted["is_enabled"], lifted["budget_usd"]) == (True, None)
    assert plane("GET", "/admin/tenants/300/features").json == {"tenant_id": 300, "features": [lifted]}


def test_a_feature_change_that_changes_nothing_is_refused(plane):
    plane.tenant(301)
    answer = plane("PUT", "/admin/tenants/301/features/f", {})
    assert answer.error[1] == "is_enabled: is required, unless budget_usd is given"
    assert plane("PUT", f"/admin/tenants/301/features/{'f' * 129}", {"is_enabled": True}).status == 422


# Caps.


def test_a_cap_counts_what_was_spent_and_reserved_earlier_in_the_month(plane):
    plane.tenant(400, budget_usd=10)
    plane.call("400", cost=300_000_000, user_id="7", feature="f")
    plane.call("400", cost=None, ceiling=250_000_000, user_id="7", feature="g")
    plane.call("400", cost=100_000_000, user_id="8", feature="f")
    user = plane("PUT", "/admin/tenants/400/budgets/user/7", {"budget_usd": 1})
    assert user.json == {
        "scope": "user",
        "scope_id": 7,
        "budget_usd": 1,
        "spent_usd": Decimal("0.3"),
        "reserved_usd": Decimal("0.25"),
    }
    feature = plane("PUT", "/admin/tenants/400/budgets/feature/f", {"budget_usd": 2}).json
    assert (feature["scope_id"], feature["spent_usd"], feature["reserved_usd"]) == ("f", Decimal("0.4"), 0)
    listed = plane("GET", "/admin/tenants/400/budgets").json
    assert (listed["tenant_id"], listed["period"]) == (400, "2026-04")
    own, *others = listed["budgets"]
    assert own == {
        "scope": "tenant",
        "scope_id": None,
        "budget_usd": 10,
        "spent_usd": Decimal("0.4"),
        "reserved_usd": Decimal("0.25"),
    }
    assert sorted(other["scope"] for other in others) == ["feature", "user"]


def test_a_lifted_cap_is_gone_and_cannot_be_lifted_again(plane):
    plane.tenant(401)
    plane("PUT", "/admin/tenants/401/budgets/user/7", {"budget_usd": 1})
    answer = plane("DELETE", "/admin/tenants/401/budgets/user/7")
    assert (answer.status, answer.body) == (204, b"")
    again = plane("DELETE", "/admin/tenants/401/budgets/user/7")
    assert (again.status, again.error[0]) == (404, "ai_not_found")
    assert [budget["scope"] for budget in plane("GET", "/admin/tenants/401/budgets").json["budgets"]] == ["tenant"]


@pytest.mark.parametrize("scope", ["tenant", "key", "team"])
def test_only_users_and_features_are_capped_under_a_tenant(plane, scope):
    plane.tenant(402)
    answer = plane("PUT", f"/admin/tenants/402/budgets/{scope}/x", {"budget_usd": 1})
    assert answer.error == ("ai_invalid_request", "scope: expected one of user, feature")
    assert plane("PUT", "/admin/tenants/402/budgets/user/x", {}).error[1] == "budget_usd: is required"
    assert plane("PUT", "/admin/tenants/402/budgets/user/x", {"budget_usd": None}).status == 422


def test_limits_of_ones_own_are_set_as_a_whole_listed_and_taken_away(plane):
    plane.tenant(403)
    key_id = plane.new_key()["key_id"]
    none = {"requests_per_minute": None, "burst": None, "tokens_per_minute": None, "concurrent_calls": None}
    paths = {
        ("tenant", None): "/admin/tenants/403/limits",
        ("feature", "f"): "/admin/tenants/403/limits/feature/f",
        ("user", 7): "/admin/tenants/403/limits/user/7",
        ("key", key_id): f"/admin/keys/{key_id}/limits",
    }
    for (scope, scope_id), path in paths.items():
        assert plane("PUT", path, {"burst": 3, "concurrent_calls": 0}).status == 200
        changed = plane("PUT", path, {"tokens_per_minute": 5})
        assert changed.json == {**none, "tokens_per_minute": 5, "scope": scope, "scope_id": scope_id}
    listed = plane("GET", "/admin/tenants/403/limits").json["limits"]
    assert [(each["scope"], each["scope_id"]) for each in listed] == [("feature", "f"), ("tenant", None), ("user", 7)]
    assert plane("GET", paths["key", key_id]).json["tokens_per_minute"] == 5
    for path in paths.values():
        assert plane("DELETE", path).status == 204
        assert plane("DELETE", path).error[0] == "ai_not_found"
    assert plane("GET", paths["key", key_id]).error == (
        "ai_not_found",
        f"service key {key_id} has no limits of its own",
    )
    assert plane("GET", "/admin/tenants/403/limits").json["limits"] == []
    told = [(each["action"], each["target"]) for each in plane.audit("tenant_id=403") if "limit" in each["action"]]
    assert told[:3] == [("limit.removed", target) for target in ("user:7", "feature:f", "tenant")]
    assert told.count(("limit.updated", "user:7")) == 2


@pytest.mark.parametrize(
    ("path", "body", "said"),
    [
        ("/admin/tenants/404/limits", {}, "expected at least one of requests_per_minute, burst, tokens_per_minute"),
        ("/admin/tenants/404/limits", {"burst": 0}, "burst: expected"),
        ("/admin/tenants/404/limits", {"requests_per_minute": -1}, "requests_per_minute: expected"),
        ("/admin/tenants/404/limits", {"rpm": 1}, "rpm"),
        ("/admin/tenants/404/limits/key/k", {"burst": 1}, "scope: expected one of user, feature"),
    ],
)
def test_what_is_no_limit_is_refused(plane, path, body, said):
    plane.tenant(404)
    answer = plane("PUT", path, body)
    assert answer.status == 422
    assert said in answer.error[1]
    assert plane("PUT", "/admin/tenants/nobody/limits", {"burst": 1}).status == 404
    assert plane("PUT", "/admin/keys/key_of_nobody/limits", {"burst": 1}).status == 404


def test_a_changed_budget_holds_in_the_running_month_at_once_and_in_the_next(fresh_plane):
    plane = fresh_plane
    plane.tenant(42, budget_usd=10)
    plane.call("42", cost=5 * 10**9, ceiling=5 * 10**9)
    assert plane.tenant(42, budget_usd=6)["budget_usd"] == 6
    assert plane("GET", "/ai/usage/tenants").json[0] == {
        "tenant_id": 42,
        "tier": "starter",
        "budget_usd": 6,
        "spent_usd": 5,
        "pct_used": Decimal("83.3"),
        "reserved_usd": 0,
    }
    plane.clock.advance(30 * 86_400)
    assert plane("GET", "/ai/usage/tenants").json[0]["spent_usd"] == 0
    assert plane("GET", "/ai/usage/tenants").json[0]["budget_usd"] == 6
    plane.tenant(42, budget_usd=8)
    assert plane("GET", "/ai/usage/tenants?period=2026-04").json[0]["budget_usd"] == 6
    assert plane("GET", "/ai/usage/tenants?period=2026-05").json[0]["budget_usd"] == 8


# Keys.


def test_a_key_is_shown_once_and_works_at_once(plane):
    made = plane.new_key(role="reader", tenants=[500, "acme", "500"], feature_slug="f", budget_usd=2.5)
    secret = made.pop("key")
    assert secret.startswith("th_")
    assert made["tenants"] == [500, "acme"]
    assert (made["role"], made["feature_slug"], made["budget_usd"]) == ("reader", "f", Decimal("2.5"))
    assert plane("GET", "/ai/usage?tenant_id=acme", key=secret).status == 200
    listed = plane("GET", "/admin/keys")
    assert made in listed.json["keys"]
    assert secret.encode() not in listed.body
    assert b"digest" not in listed.body


def test_a_revoked_key_is_refused_with_its_next_call(plane):
    made = plane.new_key(tenants=[501])
    assert plane("GET", "/ai/usage", key=made["key"]).status == 200
    answer = plane("DELETE", f"/admin/keys/{made['key_id']}")
    assert answer.status == 200
    assert answer.json["revoked_at"] == "2026-04-04T10:53:20.000Z"
    refused = plane("GET", "/ai/usage", key=made["key"])
    assert (refused.status, refused.error[0]) == (401, "ai_unauthorized")
    assert refused.headers["www-authenticate"] == "Bearer"
    assert plane("DELETE", f"/admin/keys/{made['key_id']}").json == answer.json
    assert len(plane.audit("action=key.revoked")) == 1
    assert plane("DELETE", "/admin/keys/key_nobody").error[0] == "ai_not_found"


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({}, "service: is required"),
        ({"service": ""}, "service: expected `str` of length >= 1"),
        ({"service": "a\nb"}, "service: expected 1 to 128 printable characters"),
        ({"service": "s", "role": "root"}, "role: expected one of reader, service, super-admin"),
        ({"service": "s", "tenants": []}, "tenants: expected `array` of length >= 1"),
        ({"service": "s", "tenants": ["\n"]}, "tenants: expected 1 to 64 printable characters"),
        ({"service": "s", "tenants": [True]}, "tenants[0]: expected `int | str`, got `bool`"),
        ({"service": "s", "tenants": [-1]}, "tenants[0]: expected `int` >= 0"),
        ({"service": "s", "role": "super-admin", "tenants": [1]}, "tenants: a super-admin key acts for every tenant"),
        ({"service": "s", "budget_usd": -1}, "budget_usd: expected"),
        ({"service": "s", "tenant": [1]}, "tenant: unknown field; did you mean 'tenants'?"),
    ],
)
def test_a_key_that_makes_no_sense_is_not_made(plane, wanted, said):
    before = plane("GET", "/admin/keys").json
    answer = plane("POST", "/admin/keys", wanted)
    assert answer.status == 422
    assert answer.error[1].startswith(said)
    assert plane("GET", "/admin/keys").json == before


def test_a_key_is_capped_over_all_its_tenants(plane):
    made = plane.new_key()
    plane.tenant(502, budget_usd=10)
    plane.tenant(503, budget_usd=10)
    for tenant_id in ("502", "503"):
        plane.call(tenant_id, key_id=made["key_id"], cost=200_000_000)
    path = f"/admin/keys/{made['key_id']}/budget"
    state = plane("PUT", path, {"budget_usd": 1}).json
    assert (state["scope"], state["scope_id"], state["spent_usd"]) == ("key", made["key_id"], Decimal("0.4"))
    listed = {key["key_id"]: key for key in plane("GET", "/admin/keys").json["keys"]}
    assert listed[made["key_id"]]["budget_usd"] == 1
    assert plane("DELETE", path).status == 204
    assert plane("DELETE", path).status == 404
    assert plane("PUT", "/admin/keys/key_nobody/budget", {"budget_usd": 1}).status == 404


# Who may do what.


@pytest.mark.parametrize(("method", "path", "body"), ADMIN_ROUTES)
def test_administration_is_for_super_admins_alone(plane, method, path, body):
    tables = ["tenant_ai_modules", "tenant_ai_features", "ai_budget_caps", "ai_service_keys"]
    keys = {role: plane.new_key(role=role)["key"] for role in ("service", "reader")}
    before = [plane.query(f"SELECT * FROM {table}") for table in tables]
    for key in keys.values():
        answer = plane(method, path, body, key=key)
        assert (answer.status, answer.error[0]) == (403, "ai_forbidden")
    for key in (None, "", "th_unknown", keys["service"] + "x", keys["service"][:-1]):
        answer = plane(method, path, body, key=key)
        assert (answer.status, answer.error[0]) == (401, "ai_unauthorized")
    assert [plane.query(f"SELECT * FROM {table}") for table in tables] == before


def test_a_made_super_admin_key_may_administer_and_is_named_in_the_audit_log(plane):
    made = plane.new_key(role="super-admin")
    assert plane("PUT", "/admin/tenants/600", {"name": "x"}, key=made["key"]).status == 200
    assert plane.audit("tenant_id=600")[0]["actor"] == made["key_id"]


# The audit log.


def test_every_change_leaves_its_entry_and_what_changes_nothing_leaves_none(fresh_plane):
    plane = fresh_plane
    plane.tenant(42, tier="growth")
    plane.tenant(42, tier="growth")
    plane("PUT", "/admin/tenants/42/features/f", {"is_enabled": False, "budget_usd": 1})
    plane("PUT", "/admin/tenants/42/features/f", {"is_enabled": False, "budget_usd": 1})
    plane("PUT", "/admin/tenants/42/budgets/user/7", {"budget_usd": 2})
    plane("DELETE", "/admin/tenants/42/budgets/user/7")
    made = plane.new_key(tenants=[42])
    plane("DELETE", f"/admin/keys/{made['key_id']}")
    plane("PUT", "/admin/tenants/42", {"tier": "gold"})
    entries = plane.audit()
    assert [(entry["action"], entry["target"], entry["tenant_id"], entry["actor"]) for entry in entries[::-1]] == [
        ("tenant.created", "42", 42, "admin"),
        ("feature.updated", "f", 42, "admin"),
        ("budget.updated", "feature:f", 42, "admin"),
        ("budget.updated", "user:7", 42, "admin"),
        ("budget.removed", "user:7", 42, "admin"),
        ("key.created", made["key_id"], None, "admin"),
        ("key.revoked", made["key_id"], None, "admin"),
    ]
    assert entries[-1]["before"] is None
    assert entries[-1]["after"]["budget_nano_usd"] == 10 * 10**9
    assert entries[2]["before"] == {"cap_nano_usd": 2 * 10**9}
    assert entries[2]["after"] is None


def test_the_audit_log_holds_no_key_and_no_digest(fresh_plane):
    plane = fresh_plane
    made = plane.new_key(tenants=[42], budget_usd=1)
    plane("DELETE", f"/admin/keys/{made['key_id']}")
    ((digest,),) = plane.query("SELECT digest FROM ai_service_keys")
    rows = repr(plane.query("SELECT * FROM ai_audit_log"))
    everything = repr([plane.query(f"SELECT * FROM {table}") for table in ("ai_service_keys", "ai_settings")])
    assert "key.created" in rows
    assert digest not in rows
    assert made["key"] not in rows + everything


def test_the_audit_log_is_exported_with_its_chain_and_again_from_where_it_ended(fresh_plane):
    for number in range(3):
        fresh_plane.tenant(f"Zürich/{number}", name='"')
    answer = fresh_plane("GET", "/admin/audit/export")
    assert answer.headers["content-type"].startswith("application/x-ndjson")
    rows = [json.loads(line) for line in answer.body.splitlines()]
    assert [row["tenant_id"] for row in rows] == ["Zürich/0", "Zürich/1", "Zürich/2"]
    assert [row["prev_hash"] for row in rows] == ["0" * 64, rows[0]["row_hash"], rows[1]["row_hash"]]
    assert (
        fresh_plane("GET", f"/admin/audit/export?after_id={rows[1]['id']}").body == answer.body.splitlines()[2] + b"\n"
    )
    assert fresh_plane("GET", f"/admin/audit/export?after_id={rows[2]['id']}").body == b""
    assert fresh_plane("GET", "/admin/audit/export?action=x").body == b""
    for wrong in ("x", "-1", "9223372036854775808"):
        assert fresh_plane("GET", f"/admin/audit/export?after_id={wrong}").error[1].startswith("after_id:")


def test_an_export_that_the_database_ends_is_cut_off_and_not_taken_for_whole(fresh_plane, monkeypatch):
    monkeypatch.setattr("tollhouse.audit.export._ROWS_AT_ONCE", 2)
    for number in range(3):
        fresh_plane.tenant(number)
    plain, reads = fresh_plane.database.read, []

    async def read(work):
        reads.append(work)
        if len(reads) == fails_at:
            raise Unavailable("away", retry_after_s=1)
        return await plain(work)

    monkeypatch.setattr(fresh_plane.database, "read", read)
    fails_at = 1
    assert fresh_plane("GET", "/admin/audit/export").error == ("ai_unavailable", "away")
    reads.clear()
    fails_at = 2
    with pytest.raises(http.client.IncompleteRead):
        fresh_plane("GET", "/admin/audit/export")


def test_uses_of_keys_that_are_of_note_are_noted(fresh_plane):
    plane = fresh_plane
    made = plane.new_key(tenants=[42])
    for _ in range(3):
        assert plane("GET", "/ai/usage?tenant_id=42", key=made["key"]).status == 200
        assert plane("GET", "/ai/usage?tenant_id=43", key=made["key"]).error[0] == "ai_tenant_forbidden"
    plane("DELETE", f"/admin/keys/{made['key_id']}")
    for _ in range(2):
        refusal = plane("GET", "/ai/usage?tenant_id=42", key=made["key"])
        # Whoever holds it learns no more than with any other key.
        assert (refusal.status, refusal.error) == (401, plane("GET", "/ai/usage", key="th_wrong").error)
    plane.wait_for(plane.uses.flush())
    told = {entry["action"]: entry for entry in plane.audit() if entry["action"] not in {"key.created", "key.revoked"}}
    since = "2026-04-04T10:53:20.000Z"
    here = {"since": since, "addresses": ["127.0.0.1"]}
    assert {action: entry["after"] for action, entry in told.items()} == {
        "key.first_used": {"uses": 1, "since": since},
        "key.used_for_foreign_tenant": {"uses": 3, "tenants": ["43"], **here},
        "key.used_after_revocation": {"uses": 2, **here},
        "admin_key.used": {"uses": 2, **here},
    }
    assert told["key.used_for_foreign_tenant"]["tenant_id"] == 43
    assert {entry["target"] for entry in told.values()} == {made["key_id"], "admin"}
    (key,) = plane("GET", "/admin/keys").json["keys"]
    assert key["first_used_at"] == since


def test_the_audit_log_is_read_backwards_page_by_page(fresh_plane):
    for number in range(5):
        fresh_plane.tenant(number)
    first = fresh_plane("GET", "/admin/audit?limit=2").json
    assert [entry["tenant_id"] for entry in first["entries"]] == [4, 3]
    second = fresh_plane("GET", f"/admin/audit?limit=3&before_id={first['next_before_id']}").json
    assert [entry["tenant_id"] for entry in second["entries"]] == [2, 1, 0]
    assert second["next_before_id"] is None
    assert fresh_plane.audit("action=tenant.updated") == []
    assert [entry["id"] for entry in fresh_plane.audit("tenant_id=3&action=tenant.created")] == [4]
    for wrong in ("x", "-1", "9223372036854775808", "1" * 5000):
        answer = fresh_plane("GET", f"/admin/audit?before_id={wrong}")
        assert (answer.status, answer.error[1].partition(" ")[0]) == (422, "before_id:")

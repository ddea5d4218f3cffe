import re
from pathlib import Path

from tollhouse.config.load import load_config
from tollhouse.limits.model import Limit
from tollhouse.wiring.engines import limit_rules

LIMITS_PAGE = Path(__file__).resolve().parents[3] / "docs" / "limits.md"


def rules_of(folder, text):
    file = folder / "tollhouse.toml"
    file.write_text('[auth]\nadmin_key = "env:TEST_ADMIN_KEY"\n' + text)
    return limit_rules(load_config(file, {"TEST_ADMIN_KEY": "an-admin-key-of-the-tests-0123"}))


def test_the_limits_that_the_page_on_them_shows_are_what_it_says(tmp_path):
    (example,) = re.findall(r"```toml\n(.*?)```", LIMITS_PAGE.read_text(), re.DOTALL)
    rules = rules_of(tmp_path, example)
    assert rules.base == {
        "tenant": Limit(100, 20, 200_000, 10),
        "user": Limit(20, 5),
        "feature": Limit(burst=20),
        "key": Limit(burst=20),
    }
    assert rules.tiers["enterprise"] == {
        "tenant": Limit(2000, 200, 200_000, 10),
        "user": Limit(0, 5),
        "feature": Limit(burst=20),
        "key": Limit(burst=20),
    }
    assert rules.of("tenant", "growth") == rules.base["tenant"]
    assert (rules.limits_running, rules.limits_tenants_alone) == (True, False)


def test_by_default_nothing_but_the_calls_of_tenants_is_limited(tmp_path):
    rules = rules_of(tmp_path, "")
    assert rules.base["tenant"] == Limit(100, 20)
    assert not any(rules.of(scope, "growth") for scope in ("user", "feature", "key"))
    assert (rules.limits_running, rules.limits_tenants_alone) == (False, True)

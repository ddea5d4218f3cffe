import asyncio
import re
from pathlib import Path
from typing import cast

from tollhouse.apps import duties as duties_module
from tollhouse.apps.duties import Duties, Duty
from tollhouse.config.load import load_config
from tollhouse.keys.service import Keyring
from tollhouse.kit.clock import SystemClock
from tollhouse.limits.model import Limit
from tollhouse.wiring.engines import _know_the_keys, limit_rules

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


def test_keys_that_a_defect_kept_from_being_read_are_read_when_the_duty_is_begun_again(monkeypatch):
    """Until then one that was revoked by another instance would be taken, for as long as no other key is changed."""
    monkeypatch.setattr(duties_module, "_FIRST_PAUSE_S", 0.01)

    class Keys:
        def __init__(self) -> None:
            self.reads = 0
            self.are_read = asyncio.Event()

        async def refresh(self) -> None:
            self.reads += 1
            if self.reads == 1:
                raise ValueError("a defect")
            self.are_read.set()

    async def main():
        keys, changed = Keys(), asyncio.Event()
        with Duties(SystemClock()).keeping(
            [Duty("known_keys", lambda: _know_the_keys(cast("Keyring", keys), changed))]
        ):
            changed.set()
            async with asyncio.timeout(30):
                await keys.are_read.wait()
        assert keys.reads == 2

    asyncio.run(main())

"""What every process stands on: the database, and the administration of what is in it."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import msgspec

from tollhouse.admin.service import Administration
from tollhouse.apps.duties import Duties
from tollhouse.audit.uses import FIRST_USED, NotableUses
from tollhouse.config import Config, Secrets
from tollhouse.keys.model import Principal
from tollhouse.keys.service import ADMIN_KEY_ID, new_api_key
from tollhouse.keys.store import mark_used
from tollhouse.kit.clock import Clock
from tollhouse.kit.money import nano_usd
from tollhouse.telemetry.duties import duty_metrics
from tollhouse.telemetry.metrics import Metrics
from tollhouse.wiring.engines import Engine, open_engine, thresholds

_OPERATOR_KEY_ID = "operator"


class Core(msgspec.Struct, frozen=True):
    """What both the service and the administrative commands stand on."""

    engine: Engine
    metrics: Metrics
    administration: Administration
    uses: NotableUses
    clock: Clock
    duties: Duties


@asynccontextmanager
async def open_core(config: Config, secrets: Secrets, clock: Clock, *, serves: bool) -> AsyncIterator[Core]:
    """Open the database, and the administration of what is in it; raises StartError.

    Args:
        serves: whether the process is an instance of the service, rather than a command.
    """
    async with open_engine(config, secrets, clock) as engine:
        if secrets.admin_key is not None:
            engine.keyring.trust(secrets.admin_key, Principal(ADMIN_KEY_ID, "admin", "super-admin", None))
        administration = Administration(
            engine.database,
            engine.keyring,
            clock,
            tiers={name: nano_usd(tier.budget_usd) for name, tier in config.tiers.items()},
            default_tier=config.tenants.default_tier,
            thresholds=thresholds(config),
        )
        # A command may run anywhere, with another configuration than the instances of a shared database.
        if serves or config.database.is_embedded:
            await administration.follow_tiers()
        uses = NotableUses(engine.reserved, clock, mark_used)
        engine.keyring.when_first_used = partial(uses.note, FIRST_USED)
        metrics, duties = Metrics(), Duties(clock)
        metrics.add(lambda: duty_metrics(duties.defects))
        yield Core(engine, metrics, administration, uses, clock, duties)


def operator_token(core: Core) -> str:
    """Return a super-admin key for commands on this machine, which ends with the process."""
    token = new_api_key()
    core.engine.keyring.trust(token, Principal(_OPERATOR_KEY_ID, "operator", "super-admin", None))
    return token

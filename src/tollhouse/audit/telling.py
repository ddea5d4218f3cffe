"""Entries of the audit log that are told as events too, of the type ``ai.`` and the action."""

from collections.abc import Iterable, Iterator
from datetime import datetime

from tollhouse.audit.model import AuditEntry
from tollhouse.events.model import NewEvent
from tollhouse.kit.clock import epoch_ms

# Not what is done about webhooks: it would be sent by them.
TOLD = frozenset(
    {
        "provider.switched",
        "breaker.open",
        "breaker.half_open",
        "breaker.closed",
        "tenant.created",
        "tenant.updated",
        "feature.updated",
        "budget.updated",
        "budget.removed",
        "limit.updated",
        "limit.removed",
        "key.created",
        "key.revoked",
        "key.used_after_revocation",
        "key.used_for_foreign_tenant",
    }
)
_OF_A_USER = "user:"


def events_of(entries: Iterable[AuditEntry]) -> Iterator[NewEvent]:
    """Return the events that tell of entries."""
    for entry in entries:
        if entry.action in TOLD:
            yield NewEvent(
                type=f"ai.{entry.action}",
                tenant_id=entry.tenant_id,
                user_id=entry.target.removeprefix(_OF_A_USER) if entry.target.startswith(_OF_A_USER) else "",
                subject=entry.target,
                data={"before": entry.before, "after": entry.after},
                at_ms=epoch_ms(datetime.fromisoformat(entry.created_at)),
            )

"""For whom a cap or a limit may be set."""

from typing import Literal

Scope = Literal["tenant", "user", "feature", "key"]
"""A tenant as a whole, one of its users or features, or a service key over all its tenants."""


def describe_owner(tenant_id: str, scope: Scope, scope_id: str) -> str:
    """Name in a sentence whose cap or limit it is.

    Args:
        tenant_id: not looked at for a service key, which may act for several.
        scope_id: not looked at for a tenant as a whole.
    """
    if scope == "tenant":
        return f"tenant {tenant_id}"
    if scope == "key":
        return f"service key {scope_id}"
    return f"{scope} {scope_id} of tenant {tenant_id}"

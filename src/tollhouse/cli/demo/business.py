"""The example business: whose tenants the demo's calls are, and what is asked for them."""

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

USER = 101
TENANT = 42
"""Coffee & Co, with a budget that lasts."""
POOR_TENANT = 43
"""Tiny, with a budget that not even one call fits into."""
TENANT_NAMES = {TENANT: "Coffee & Co", POOR_TENANT: "Tiny"}
BUDGETS_USD = {TENANT: "10", POOR_TENANT: "0.001"}


class Sale(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What was sold of one thing."""

    item: Annotated[str, Meta(min_length=1, max_length=40)]
    sold: Annotated[int, Meta(ge=0, le=1_000_000)]
    revenue: Annotated[int, Meta(ge=0, le=1_000_000_000)] | Annotated[float, Meta(ge=0, le=1e9)]


_TUESDAY = (Sale("coffees", 320, 960), Sale("teas", 85, 212), Sale("cakes", 41, 164))


def report_body(tenant_id: int, period: str, sales: Sequence[Sale]) -> dict[str, Any]:
    """Return the body of ``POST /reports/generate`` for a tenant's sales."""
    # In words, as a model this small makes more of them than of JSON.
    lines = [f"- {sale.sold} {sale.item} for {sale.revenue:.10g} USD" for sale in sales]
    text = "\n".join(["The shop sold:", *lines, "", f"Total: {sum(sale.revenue for sale in sales):.10g} USD"])
    params = {"template": "sales-summary", "period": period, "currency": "USD", "sales": text}
    return {"tenant_id": tenant_id, "user_id": USER, "params": params}


def example_report() -> dict[str, Any]:
    """Return the report that the walk asks for."""
    return report_body(TENANT, "Tuesday", _TUESDAY)

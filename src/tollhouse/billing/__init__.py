"""Reading usage and spending, each caller its own tenants'."""

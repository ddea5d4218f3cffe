"""Paths of the admin routes."""

from urllib.parse import quote


def path(*parts: str) -> str:
    """Return a path of parts, each percent-encoded, so that an id stays one part whatever it contains.

    >>> path("admin", "tenants", "a/b")
    '/admin/tenants/a%2Fb'
    """
    return "".join(f"/{quote(part, safe='')}" for part in parts)

"""Which refusals are noted as uses of a key that an operator has to know of."""

from tollhouse.audit.uses import NotableUses
from tollhouse.errors import KeyRevoked, TenantForbidden, TollhouseError

Client = tuple[str, int] | None
"""The other end of a connection, address and port; behind a proxy that is the proxy."""


def address_of(client: Client) -> str:
    """Return the address without the port, which is another one each time."""
    return "" if client is None else client[0]


def note_refusal(uses: NotableUses, error: TollhouseError, key_id: str, client: Client) -> None:
    """Note a refusal that tells of a key in wrong hands.

    Args:
        key_id: whose call was refused, where that is known.
    """
    if isinstance(error, TenantForbidden):
        uses.note("key.used_for_foreign_tenant", key_id, address=address_of(client), tenant_id=error.tenant_id)
    elif isinstance(error, KeyRevoked):
        uses.note("key.used_after_revocation", error.key_id, address=address_of(client))

"""What an edge gateway asks about each request before it counts or passes it on: whose is it?"""

from collections.abc import Sequence

import msgspec

from tollhouse.errors import TenantForbidden
from tollhouse.keys.bearer import client_key
from tollhouse.keys.model import Principal
from tollhouse.keys.service import Keyring
from tollhouse.kit.headers import single_value
from tollhouse.kit.validation import MAX_ID, MAX_SLUG, printable

RawHeaders = Sequence[tuple[bytes, bytes]]


class Authorized(msgspec.Struct, frozen=True, gc=False):
    """A request whose key is known.

    Attributes:
        tenant_id: whose allowance it uses; None where only the body says so, as the body is not the edge's to read.
        feature_slug: the feature it says it is for, or the key's own; "" for none.
    """

    tenant_id: str | None
    feature_slug: str


def authorize(keyring: Keyring, headers: RawHeaders, query_key: str | None = None) -> Authorized:
    """Return whose a request is, by its head alone and from memory.

    Args:
        headers: as ASGI gives them, names in lower case.
        query_key: the key, where it came in the query as Google's clients may send it.

    Raises:
        Unauthorized: there is no key, or it is unknown or revoked.
        TenantForbidden: the key may not act for the tenant that the request names.
    """
    principal = keyring.identify(query_key or client_key(headers))
    return Authorized(_tenant(headers, principal), _feature(headers, principal))


def _tenant(headers: RawHeaders, principal: Principal) -> str | None:
    try:
        named = single_value(headers, b"x-tenant-id")
        if named is None:
            return principal.only_tenant
        tenant_id = printable("X-Tenant-Id", named.decode("latin-1"), MAX_ID)
    except ValueError as error:
        # The edge knows no other refusal, and what names no tenant may not be counted as anybody's.
        raise TenantForbidden(str(error)) from None
    if not principal.may_act_for(tenant_id):
        raise TenantForbidden(f"this key may not act for tenant {tenant_id}")
    return tenant_id


def _feature(headers: RawHeaders, principal: Principal) -> str:
    try:
        named = single_value(headers, b"x-feature-slug")
        return principal.feature_slug if named is None else printable("", named.decode("latin-1"), MAX_SLUG)
    except ValueError:
        # It only chooses a way; the service itself refuses the request for it.
        return ""

"""Which of Google's errors are the operator's to mend."""

from tollhouse.providers.base import ProviderError, WireResponse
from tollhouse.providers.refusals import VendorError, failure

# An invalid key and an unserved country come as 400.
_OPERATORS_CODES = frozenset({"API_KEY_INVALID", "FAILED_PRECONDITION"})


def refused(response: WireResponse, secret: str) -> ProviderError:
    """Return the outcome that an error of Google's stands for, ready to be raised."""
    return failure(response, secret=secret, is_operators=_is_operators)


def _is_operators(error: VendorError) -> bool:
    return not _OPERATORS_CODES.isdisjoint(error.codes)

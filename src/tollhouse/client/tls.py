"""TLS as both clients use it: certificates are always checked. It is not even loaded where the URL begins with http."""

from typing import TYPE_CHECKING

from tollhouse.client.settings import Settings

if TYPE_CHECKING:
    from ssl import SSLContext


def tls_context(settings: Settings) -> "SSLContext | None":
    """Return what connections are to be made with; None for plain ones. Raises OSError for a bad ``ca_file``."""
    if not settings.origin.is_tls:
        return None
    if settings.ssl_context is not None:
        return settings.ssl_context
    from ssl import create_default_context

    return create_default_context(cafile=settings.ca_file)


def is_mistrust(error: OSError) -> bool:
    """Whether a connection failed because the service's certificate is not trusted."""
    # By its name, since the module is not there unless TLS is.
    return type(error).__name__ == "SSLCertVerificationError"

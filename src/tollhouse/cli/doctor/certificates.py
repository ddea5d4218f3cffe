"""The certificate that the service shows to its callers."""

import datetime as dt

from tollhouse.apps.tls import ServerTls, TlsSettings, end_of
from tollhouse.cli.doctor.finding import Finding, failed, ok, warning
from tollhouse.errors import StartError
from tollhouse.kit.clock import Clock

_SOON = dt.timedelta(days=14)


def examine_certificate(settings: TlsSettings, clock: Clock) -> Finding:
    """Look at whether TLS can be served, and for how long."""
    try:
        ServerTls(settings)
        end = end_of(settings.certificate)
    except StartError as error:
        return failed("certificate", str(error), "see docs/security.md")
    left = end - dt.datetime.fromtimestamp(clock.now_ms() / 1000, dt.UTC)
    told = f"{settings.certificate} ends on {end:%Y-%m-%d}"
    advice = "renew it; a running service takes the new files within seconds"
    if left <= dt.timedelta(0):
        return failed("certificate", f"{told}, which is over", advice)
    return warning("certificate", told, advice) if left < _SOON else ok("certificate", told)

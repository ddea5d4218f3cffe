"""What the doctor says of the server's certificate, over its days."""

import datetime as dt
from pathlib import Path

from harness.certificates import Authority
from harness.clock import FakeClock
from tollhouse.apps.tls import TlsSettings
from tollhouse.cli.doctor.certificates import examine_certificate


def test_a_certificate_is_told_of_before_it_ends_and_when_it_cannot_be_used(tmp_path: Path):
    authority = Authority(tmp_path)
    files = TlsSettings(*authority.issue("server"), None)
    now = dt.datetime.now(dt.UTC)

    def status(days: float) -> str:
        finding = examine_certificate(files, FakeClock((now + dt.timedelta(days=days)).isoformat()))
        return finding.status

    # It is good for a day from now.
    assert (status(-20), status(0), status(2)) == ("ok", "warning", "failed")
    files.key.unlink()
    assert status(-20) == "failed"

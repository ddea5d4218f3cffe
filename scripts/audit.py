"""Look whether a known vulnerability concerns anything in uv.lock; exits with 1 if one does.

uv's own audit asks OSV (osv.dev), which a machine without a way to the internet cannot. That is told, and is a failure
only with ``--required``: a build must neither hang nor pass for audited because nobody answered.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from http.client import HTTPException
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_SERVICE = "https://api.osv.dev/"
# A release whose vulnerabilities have long been known: a service that does not know them says nothing about others.
_VULNERABLE = {"package": {"name": "jinja2", "ecosystem": "PyPI"}, "version": "2.4.1"}
_ANSWER_BYTES = 1024 * 1024


def why_not_to_ask(service: str, timeout_s: float) -> str | None:
    """Return why the service cannot be asked; None if it answers, and knows of vulnerabilities."""
    asked = urllib.request.Request(
        f"{service}v1/query", json.dumps(_VULNERABLE).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(asked, timeout=timeout_s) as answer:
            known = json.loads(answer.read(_ANSWER_BYTES))
    except (OSError, HTTPException) as error:
        return str(getattr(error, "reason", None) or error)
    except ValueError:
        return "its answer is no JSON, or endless"
    if not isinstance(known, dict) or not known.get("vulns"):
        return "it knows no vulnerability of a release that has some"
    return None


def audit(service: str, timeout_s: float) -> int:
    """Have uv ask about everything in uv.lock, with all extras and groups; return its exit status.

    That is 0 if all is well, 1 if something was found, and another where it could not find out.
    """
    uv = os.environ.get("UV") or shutil.which("uv") or str(ROOT / ".uv/bin/uv")
    # Its audit is still a preview, which it would say each time.
    command = [uv, "audit", "--frozen", "--preview-features", "audit-command", "--service-url", service]
    return subprocess.run(command, cwd=ROOT, timeout=timeout_s, check=False).returncode


def main() -> int:
    """Audit, and tell what came of it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--required", action="store_true", help="fail if nobody could be asked")
    parser.add_argument("--service", default=_SERVICE, metavar="URL", help="another service that speaks OSV's API")
    parser.add_argument("--timeout-s", type=float, default=60.0, help="how long the audit may take")
    arguments = parser.parse_args()
    service = arguments.service.rstrip("/") + "/"
    reason = why_not_to_ask(service, min(arguments.timeout_s, 10.0))
    if reason is None:
        try:
            status = audit(service, arguments.timeout_s)
            if status in {0, 1}:
                return status
            reason = f"uv's audit failed with exit status {status}"
        except subprocess.TimeoutExpired:
            reason = f"it did not answer within {arguments.timeout_s:g} s"
    print(f"audit: NOT AUDITED: {service} could not be asked about vulnerabilities: {reason}", file=sys.stderr)
    return 1 if arguments.required else 0


if __name__ == "__main__":
    sys.exit(main())

"""Calls for poisoned jobs end the process that makes them.

It runs ``tollhouse`` so, in place of ``-m tollhouse``, and all interpreters that this starts.
"""

import os
import signal
import sys
from pathlib import Path

from tollhouse.jobs.calling import JobCall, ServiceCaller

_call = ServiceCaller.call


async def _poisoned(self: ServiceCaller, call: JobCall) -> bytes:
    if b"poison" in call.request:
        os.kill(os.getpid(), signal.SIGKILL)
    return await _call(self, call)


ServiceCaller.call = _poisoned  # type: ignore[method-assign]

if __name__ == "__main__":
    os.environ["PYTHONPATH"] = str(Path(__file__).parent)
    from tollhouse.__main__ import main

    sys.argv[0] = "tollhouse"
    main()

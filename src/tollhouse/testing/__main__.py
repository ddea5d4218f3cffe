"""``python -m tollhouse.testing``: the fake provider as a process, told what to do over HTTP (see control.py)."""

import argparse
import asyncio
import resource
import signal
import sys
from pathlib import Path

import msgspec
import uvloop

from tollhouse.testing.behaviour import Behaviour
from tollhouse.testing.fake import FakeProvider


def main(arguments: list[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; return the exit code: 2 for what it cannot start with."""
    options = _parser().parse_args(arguments)
    try:
        behaviour = msgspec.json.decode(options.behaviour, type=Behaviour)
    except msgspec.DecodeError as error:
        sys.stderr.write(f"--behaviour: {error}\n")
        return 2
    if options.delay_ms is not None:
        behaviour = msgspec.structs.replace(behaviour, delay_s=options.delay_ms / 1000)
    fake = FakeProvider(options.receipts, host=options.host, port=options.port)
    fake.behave(behaviour)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    # Thousands of connections need as many descriptors, and the usual soft limit is 1,024.
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_serve(fake))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tollhouse.testing", description="Serve a fake AI provider.")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0, help="0: any that is free (default)")
    parser.add_argument("--receipts", type=Path, metavar="FILE", help="append a JSON line for every call")
    parser.add_argument("--delay-ms", type=float, metavar="N", help="wait so long before each answer")
    parser.add_argument("--behaviour", default="{}", metavar="JSON", help="how calls are answered, as a Behaviour")
    return parser


async def _serve(fake: FakeProvider) -> int:
    try:
        await fake.start()
    except OSError as error:
        sys.stderr.write(f"the fake provider cannot start: {error}\n")
        return 2
    stopped = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    sys.stdout.write(f"the fake provider listens on {fake.base_url('anthropic')}\n")
    sys.stdout.flush()
    await stopped.wait()
    await fake.stop()
    return 0


if __name__ == "__main__":
    sys.exit(main())

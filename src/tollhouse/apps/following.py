"""Following the configuration file: its prices hold for the calls after a change, without a restart."""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

import structlog

from tollhouse.errors import StartError
from tollhouse.pricing.book import ConfiguredPrice, PriceBook

_LOOK_EVERY_S = 0.5
_LOG = structlog.get_logger("tollhouse.prices")


async def follow_prices(prices: PriceBook, file: Path, load: Callable[[], Mapping[str, ConfiguredPrice]]) -> None:
    """Run until cancelled.

    Args:
        prices: what calls are priced by.
        file: the configuration file; there may be none.
        load: reads the prices that it and the environment give; raises StartError.
    """
    seen = _look(file)
    while True:
        await asyncio.sleep(_LOOK_EVERY_S)
        found = _look(file)
        if found == seen or found is None:
            continue
        seen = found
        try:
            prices.follow(await asyncio.to_thread(load))
        except StartError as error:
            _LOG.error("the changed configuration is not followed", file=str(file), reason=str(error))
        else:
            _LOG.info("prices follow the changed configuration", file=str(file))


def _look(file: Path) -> tuple[int, int, int] | None:
    """Return what changes with a file's content, or None while there is no file, as while an editor replaces it."""
    try:
        state = file.stat()
    except OSError:
        return None
    return state.st_ino, state.st_size, state.st_mtime_ns

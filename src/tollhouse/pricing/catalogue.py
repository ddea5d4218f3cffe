"""Prices from the genai-prices catalogue, compiled by a short-lived child process.

Importing genai-prices takes more than half a second and 16 MB, and pricing one call with it a quarter of
a millisecond. So a child process imports it, turns what the configured models need into integer rates, and
is gone.
"""

import asyncio
import sys
from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from tollhouse.errors import StartError
from tollhouse.pricing.model import Price

# -P keeps the working directory off the child's import path: a stray json.py there must not be run.
_COMPILER = (sys.executable, "-P", "-m", "tollhouse.pricing.compiler")


class CatalogueQuery(msgspec.Struct, frozen=True):
    """A model whose price is wanted."""

    model: str
    """Its configured name, under which the price is returned."""
    upstream_model: str
    """Its name at the provider."""
    kind: Literal["anthropic", "openai", "deepseek", "gemini"]
    """The provider's kind."""
    base_url: str
    """The provider's base URL: it tells the vendor among the many that speak one wire format."""


class CompileTask(msgspec.Struct, frozen=True):
    """What the child process reads, as JSON, from its standard input."""

    now_ms: int
    queries: tuple[CatalogueQuery, ...]


class Catalogue(msgspec.Struct, frozen=True):
    """What the catalogue knows of the wanted models; the child writes it to its standard output, as JSON.

    Attributes:
        prices: by configured name: the price in force, then those already known to follow, each with its first
            instant. A model that the catalogue cannot price is not in it.
        context_windows: by configured name: the most tokens of input and output together that the model takes. A
            model of which the catalogue does not say is not in it.
    """

    prices: Mapping[str, tuple[Price, ...]]
    context_windows: Mapping[str, int]


async def compile_catalogue(wanted: Sequence[CatalogueQuery], *, now_ms: int, timeout_s: float = 30.0) -> Catalogue:
    """Return the catalogue's prices and context windows of the wanted models.

    Args:
        wanted: models without a configured price; for none at all, no process is started.
        now_ms: milliseconds since the Unix epoch, from the injected clock: prices in force then, and later.
        timeout_s: how long the child process may take.

    Raises:
        StartError: the child process could not be started, failed, took too long, or wrote something else.
    """
    if not wanted:
        return Catalogue({}, {})
    task = msgspec.json.encode(CompileTask(now_ms=now_ms, queries=tuple(wanted)))
    try:
        child = await asyncio.create_subprocess_exec(
            *_COMPILER,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    except OSError as error:
        raise _failure(f"its process could not be started ({error})") from error
    try:
        async with asyncio.timeout(timeout_s):
            stdout, stderr = await child.communicate(task)
    except TimeoutError as error:
        raise _failure(f"it took longer than {timeout_s:g} s") from error
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    if child.returncode != 0:
        lines = stderr.decode(errors="replace").strip().splitlines()
        raise _failure(f"exit status {child.returncode}" + (f", {lines[-1]}" if lines else ""))
    try:
        return msgspec.json.decode(stdout, type=Catalogue)
    except msgspec.MsgspecError as error:
        raise _failure(f"its output is not a table of prices: {error}") from error


def _failure(reason: str) -> StartError:
    return StartError(
        f"The price catalogue (the genai-prices package) could not be read: {reason}. Without it, "
        "every model needs a price of its own: [models.NAME] price = { input = 0.80, output = 4.00 }"
    )

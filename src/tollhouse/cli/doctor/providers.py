"""Whether the configured models have a price, and their providers can be reached. Nothing here is billed."""

import asyncio
from collections.abc import Iterator, Mapping

from tollhouse.apps.catalogue import compile_configured
from tollhouse.cli.doctor.finding import Finding, failed, ok, warning
from tollhouse.config import Config
from tollhouse.errors import StartError
from tollhouse.kit.clock import SystemClock
from tollhouse.pricing.book import PriceBook
from tollhouse.providers.base import NotSent
from tollhouse.providers.transport import Upstream
from tollhouse.wiring.candidates import make_upstreams
from tollhouse.wiring.control import configured_prices


async def examine_providers(config: Config, environ: Mapping[str, str]) -> list[Finding]:
    """Look at models, prices and providers."""
    prices, reached = await asyncio.gather(_examine_prices(config), _examine_reach(config, environ))
    return [*prices, *reached]


async def _examine_prices(config: Config) -> list[Finding]:
    if not config.models:
        return [
            warning("models", "none is configured", "add a [models.NAME] with its provider, so that calls can be made")
        ]
    try:
        clock = SystemClock()
        book = PriceBook(configured_prices(config), (await compile_configured(config, clock)).prices, clock)
    except StartError as error:
        return [failed("prices", str(error), "reinstall genai-prices, or give each model a price")]
    return [finding for name in config.models for finding in _examine_model(config, name, book)]


def _examine_model(config: Config, name: str, book: PriceBook) -> Iterator[Finding]:
    price = book.get(name)
    if price is None:
        yield warning(
            f"model {name}",
            "has no price, so calls of it are refused",
            f'add price = {{ input = …, output = … }} (USD per million tokens) to [models."{name}"]',
        )
    else:
        yield ok(f"model {name}", f"is priced: {price.version}")
    for fallback in config.models[name].fallbacks:
        if fallback not in config.models:
            yield warning(f"model {name}", f"its fallback {fallback} is not configured", f'add [models."{fallback}"]')


async def _examine_reach(config: Config, environ: Mapping[str, str]) -> list[Finding]:
    upstreams = make_upstreams(config, environ)
    findings = await asyncio.gather(
        *(_probe(name, upstream, config.providers[name].connect_timeout_s) for name, upstream in upstreams.items())
    )
    for upstream in upstreams.values():
        await upstream.close()
    return findings


async def _probe(name: str, upstream: Upstream, timeout_s: float) -> Finding:
    try:
        await upstream.probe(timeout_s)
    except NotSent as error:
        return failed(
            f"provider {name}",
            f"cannot be reached: {error}",
            f"check [providers.{name}] base_url, the network, and HTTPS_PROXY; until then its calls get a 503",
        )
    return ok(f"provider {name}", "can be reached")

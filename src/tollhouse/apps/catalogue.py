"""What the configured models need from the price catalogue.

It imports little, so that the child process which compiles them runs while the service itself is still loading.
"""

from tollhouse.config import Config
from tollhouse.kit.clock import Clock
from tollhouse.pricing.catalogue import Catalogue, CatalogueQuery, compile_catalogue
from tollhouse.providers.registry import DEFAULT_BASE_URLS


def base_url(config: Config, provider: str) -> str:
    """Return the base URL of a configured provider: its own, or its vendor's."""
    settings = config.providers[provider]
    return settings.base_url or DEFAULT_BASE_URLS[settings.kind]


async def compile_configured(config: Config, clock: Clock) -> Catalogue:
    """Return what the catalogue knows of the models that have no price of their own; raises StartError."""
    wanted = [
        CatalogueQuery(
            model=name,
            upstream_model=settings.upstream_model or name,
            kind=config.providers[settings.provider].kind,
            base_url=base_url(config, settings.provider),
        )
        for name, settings in config.models.items()
        if settings.price is None
    ]
    return await compile_catalogue(wanted, now_ms=clock.now_ms())

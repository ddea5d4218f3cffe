"""The configured models, and all that a call of one needs: adapters, transports, breakers, bulkheads, keys."""

from collections.abc import Callable, Mapping

import structlog

from tollhouse.apps.catalogue import base_url
from tollhouse.completions.models import Candidate, Models
from tollhouse.config import Config, Provider, Secrets
from tollhouse.kit.clock import Clock
from tollhouse.pricing.book import PriceBook
from tollhouse.providers.base import Adapter, SearchesUnasked
from tollhouse.providers.dial import default_tls
from tollhouse.providers.registry import adapter_for
from tollhouse.providers.transport import TransportLimits, Upstream, proxy_from_environment
from tollhouse.resilience.api_keys import ApiKey, KeyRotation
from tollhouse.resilience.breaker import BreakerSettings, CircuitBreaker, Transition
from tollhouse.resilience.bulkhead import Bulkhead
from tollhouse.resilience.guards import Guards, ProviderGuards
from tollhouse.resilience.latency import LatencyQuantile

_LOG = structlog.get_logger("tollhouse.start")

Changed = Callable[[str, str, Transition], None]
"""Told of the change of a breaker: of which provider, and of which model."""


def make_upstreams(config: Config, environ: Mapping[str, str]) -> dict[str, Upstream]:
    """Return the transport to each configured provider, by its name."""
    # One context for all, since each holds its own copy of the system's certificates.
    tls = default_tls()
    upstreams = {}
    for name, settings in config.providers.items():
        address = base_url(config, name)
        limits = TransportLimits(
            connect_timeout_s=settings.connect_timeout_s,
            max_connections=settings.max_connections,
            # Whoever got a connection to this service may wait for one to the provider, within its deadline.
            max_waiting=config.server.max_connections,
        )
        proxy_url = proxy_from_environment(address, environ)
        upstreams[name] = Upstream(address, limits=limits, tls=tls, proxy_url=proxy_url)
    return upstreams


def make_guards(config: Config, secrets: Secrets, clock: Clock, changed: Changed) -> Guards:
    """Return what stands before each configured provider."""
    guards = {}
    for name, settings in config.providers.items():
        models = [model for model, of in config.models.items() if of.provider == name]
        guards[name] = ProviderGuards(
            breakers={model: _breaker(config, name, model, changed) for model in models if config.breaker.enabled},
            bulkhead=_bulkhead(settings),
            keys=_keys(config, secrets, name) if len(settings.keys) > 1 else None,
        )
    return Guards(guards, clock)


def _breaker(config: Config, provider: str, model: str, changed: Changed) -> CircuitBreaker:
    chosen = config.breaker
    settings = BreakerSettings(**{field: getattr(chosen, field) for field in BreakerSettings.__struct_fields__})
    return CircuitBreaker(settings, lambda transition: changed(provider, model, transition))


def _bulkhead(settings: Provider) -> Bulkhead | None:
    if settings.max_calls is None and settings.max_tenant_calls is None:
        return None
    return Bulkhead(
        limit=settings.max_calls,
        tenant_limit=settings.max_tenant_calls,
        max_waiting=settings.max_waiting,
        max_wait_s=settings.max_wait_s,
    )


def _keys(config: Config, secrets: Secrets, name: str) -> KeyRotation[Adapter]:
    settings = config.providers[name]
    api_keys = secrets.provider_api_keys[name]
    keys = [ApiKey(key, _adapter(config, name, api_keys[key]), of.weight) for key, of in settings.keys.items()]
    return KeyRotation(keys, settings.key_rest_s)


def _adapter(config: Config, name: str, api_key: str) -> Adapter:
    settings = config.providers[name]
    return adapter_for(
        settings.kind, base_url=base_url(config, name), api_key=api_key, has_responses=settings.has_responses
    )


def make_models(
    config: Config,
    secrets: Secrets,
    upstreams: Mapping[str, Upstream],
    guards: Guards,
    prices: PriceBook,
    context_windows: Mapping[str, int],
) -> Models:
    """Return the configured models, each with its candidates."""
    adapters = {
        name: _adapter(config, name, next(iter(secrets.provider_api_keys.get(name, {}).values()), ""))
        for name in config.providers
    }
    candidates = {}
    for name, settings in config.models.items():
        provider, before = config.providers[settings.provider], guards.providers[settings.provider]
        candidates[name] = Candidate(
            model=name,
            provider=settings.provider,
            upstream_model=settings.upstream_model or name,
            adapter=adapters[settings.provider],
            transport=upstreams[settings.provider],
            timeout_s=provider.timeout_s,
            max_output_tokens=settings.max_output_tokens,
            input_overhead_tokens=settings.input_overhead_tokens,
            context_window=settings.context_window or context_windows.get(name),
            max_image_tokens=_max_image_tokens(config, name),
            own_searches=_own_searches(adapters[settings.provider], settings.upstream_model or name),
            first_byte_timeout_s=provider.first_byte_timeout_s,
            fair_s=min(provider.timeout_s, config.limits.call_timeout_s),
            breaker=before.breakers.get(name),
            bulkhead=before.bulkhead,
            keys=before.keys,
            latency=LatencyQuantile(config.failover.hedge_quantile) if config.failover.hedge else None,
        )
        if prices.get(name) is None:
            _LOG.warning("a model has no price, so calls of it are refused", model=name)
    fallbacks = {name: _known(config, name, settings.fallbacks) for name, settings in config.models.items()}
    aliases = {alias: name for name, settings in config.models.items() for alias in settings.aliases}
    return Models(
        candidates,
        fallbacks,
        prices,
        aliases=aliases,
        tiers=_tiers_of_models(config),
        tier_fallbacks=_tier_fallbacks(config),
    )


def _known(config: Config, name: str, fallbacks: tuple[str, ...]) -> list[str]:
    for missing in sorted(set(fallbacks) - set(config.models)):
        _LOG.warning("a fallback is not configured, and is passed over", model=name, fallback=missing)
    return [other for other in fallbacks if other in config.models]


def _tier_fallbacks(config: Config) -> dict[str, dict[str, list[str]]]:
    """Return, for each model, the fallbacks of the tiers that have their own."""
    found: dict[str, dict[str, list[str]]] = {}
    for tier, settings in config.tiers.items():
        for name, fallbacks in settings.fallbacks.items():
            found.setdefault(name, {})[tier] = _known(config, name, fallbacks)
    return found


def _tiers_of_models(config: Config) -> dict[str, frozenset[str]]:
    """Return, for each model, the tiers that have it; nothing where every tier has every model."""
    if all(tier.models is None for tier in config.tiers.values()):
        return {}
    return {
        name: frozenset(t for t, tier in config.tiers.items() if tier.models is None or name in tier.models)
        for name in config.models
    }


def _max_image_tokens(config: Config, name: str) -> int:
    """Return the most tokens that one picture counts as, unless it is configured what is known of the vendor.

    OpenAI's gpt-4o-mini counts a picture in full detail as up to 48,169 tokens (2,833 and 5,667 a tile), its other
    models as up to 2,500; Anthropic's count up to 4,784, and Google's up to 258 a tile.
    """
    settings = config.models[name]
    if settings.max_image_tokens is not None:
        return settings.max_image_tokens
    is_small = "4o-mini" in (settings.upstream_model or name)
    return 50_000 if is_small and config.providers[settings.provider].kind == "openai" else 6_000


def _own_searches(adapter: Adapter, upstream_model: str) -> int:
    return adapter.own_searches(upstream_model) if isinstance(adapter, SearchesUnasked) else 0

"""What the operator decides: ``tollhouse.toml``, overrides from the environment, and the secrets they refer to."""

from tollhouse.config.guardrails import Feature, FeatureGuardrails, Guardrails, OwnPattern
from tollhouse.config.load import load_config
from tollhouse.config.model import (
    Auth,
    Config,
    Database,
    Edge,
    Idempotency,
    Ledger,
    Limits,
    Model,
    Price,
    Provider,
    ProviderKind,
    Server,
    Tenants,
    Tier,
)
from tollhouse.config.secrets import Secrets, resolve_secrets
from tollhouse.config.values import SecretReference

__all__ = [
    "Auth",
    "Config",
    "Database",
    "Edge",
    "Feature",
    "FeatureGuardrails",
    "Guardrails",
    "Idempotency",
    "Ledger",
    "Limits",
    "Model",
    "OwnPattern",
    "Price",
    "Provider",
    "ProviderKind",
    "SecretReference",
    "Secrets",
    "Server",
    "Tenants",
    "Tier",
    "load_config",
    "resolve_secrets",
]

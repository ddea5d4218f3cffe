"""Which guardrails a feature's calls have: those for all, with the feature's own in their place."""

from collections.abc import Mapping

import msgspec

from tollhouse.config import Feature, FeatureGuardrails, Guardrails


def policy_of(default: Guardrails, own: FeatureGuardrails) -> Guardrails:
    """Return the guardrails of a feature."""
    given = {name: value for name in FeatureGuardrails.__struct_fields__ if (value := getattr(own, name)) is not None}
    return msgspec.structs.replace(default, **{**given, "patterns": {**default.patterns, **own.patterns}})


def policies(default: Guardrails, features: Mapping[str, Feature]) -> dict[str, Guardrails]:
    """Return the guardrails of each feature that has its own."""
    return {slug: policy_of(default, feature.guardrails) for slug, feature in features.items()}

"""Loading the configuration: the file, the overrides from the environment, and the rules that span keys."""

import re
import tomllib
from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import msgspec

from tollhouse.config.environment import apply_overrides
from tollhouse.config.files import read_at_most
from tollhouse.config.locate import locate
from tollhouse.config.model import REFERENCE_TIERS, Config, Server
from tollhouse.config.problems import Problems, listed
from tollhouse.config.read import read
from tollhouse.config.schema import ROOT, KeyPath
from tollhouse.errors import StartError

DEFAULT_FILE = Path("tollhouse.toml")
_MOST_BYTES = 4 * 1024 * 1024


def load_config(path: Path | None, environ: Mapping[str, str]) -> Config:
    """Return the configuration of a file and the environment, checked.

    Args:
        path: the file; None takes ``tollhouse.toml`` in the current directory, if there is one.
        environ: the environment, whose ``TOLLHOUSE_<SECTION>__<KEY>`` variables override the file.

    Raises:
        StartError: the file cannot be read, or keys or values are wrong; one line for each, with its
            file and line or its variable, what was found, and what was expected.
    """
    text = _text(path)
    problems = Problems(file=None if text is None else str(path or DEFAULT_FILE))
    tree: dict[str, Any] = {}
    if text is not None:
        tree = _parsed(text, str(problems.file))
        problems.lines = locate(text)
    apply_overrides(tree, environ, problems)
    config = read(ROOT, tree, (), problems)
    problems.raise_if_any()
    assert isinstance(config, Config)
    config = msgspec.structs.replace(config, tiers=REFERENCE_TIERS | config.tiers)
    _check_references(config, problems)
    problems.raise_if_any()
    return config


def _text(path: Path | None) -> str | None:
    """Return the file's text; None when no file was named and there is none in the current directory."""
    file = path or DEFAULT_FILE
    try:
        content = read_at_most(file, _MOST_BYTES)
    except FileNotFoundError:
        if path is None:
            return None
        raise StartError(f"{file}: no such file: expected a configuration file in TOML") from None
    except OSError as error:
        raise StartError(f"{file}: cannot be read ({error.strerror}): expected a file in TOML") from error
    try:
        return content.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise StartError(f"{file}:{line}: not UTF-8: expected a text file in UTF-8") from None


def _parsed(text: str, file: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text, parse_float=_decimal)
    except RecursionError:
        raise StartError(f"{file}: arrays or tables are nested too deeply") from None
    except tomllib.TOMLDecodeError as error:
        raise StartError(f"{file}:{_syntax_problem(str(error), text)}") from None
    except ValueError:
        # Only an integer of thousands of digits ends here, and the parser does not say where it is.
        raise StartError(f"{file}: an integer has too many digits") from None


def _syntax_problem(message: str, text: str) -> str:
    """Return tomllib's message, which ends with its place, as ``<line>:<column>: not valid TOML: <reason>``."""
    reason, _, place = message.rpartition(" (at ")
    line, column = (int(number) for number in re.findall(r"\d+", place)) if "line" in place else _end(text)
    return f"{line}:{column}: not valid TOML: {reason}"


def _end(text: str) -> tuple[int, int]:
    """Return the line and column behind the last character, which tomllib calls the end of the document."""
    lines = text.rstrip("\n").split("\n")
    return len(lines), len(lines[-1]) + 1


def _decimal(text: str) -> Decimal:
    """Return a TOML float exactly, so that money stays exact."""
    try:
        return Decimal(text)
    except InvalidOperation:
        # Its exponent is beyond what Decimal holds; every bound refuses NaN, with the key's place.
        return Decimal("nan")


def _check_references(config: Config, problems: Problems) -> None:
    _check_tls(config.server, problems)
    for name, provider in config.providers.items():
        if provider.keys and provider.api_key is not None:
            problems.add(("providers", name, "api_key"), ": expected either api_key or keys, not both")
        first_byte_s = provider.first_byte_timeout_s
        if first_byte_s is not None and first_byte_s > provider.timeout_s:
            expected = f"at most timeout_s, {provider.timeout_s:g}"
            problems.wrong(("providers", name, "first_byte_timeout_s"), first_byte_s, expected)
    for name, model in config.models.items():
        if model.provider not in config.providers:
            known = listed(sorted(config.providers)) or "none is configured"
            expected = f"the name of a configured provider ({known})"
            problems.wrong(("models", name, "provider"), model.provider, expected, config.providers)
        _check_fallbacks(config, name, model.fallbacks, ("models", name, "fallbacks"), problems)
    _check_aliases(config, problems)
    for tier, settings in config.tiers.items():
        for name, fallbacks in settings.fallbacks.items():
            if name not in config.models:
                expected = f"the name of a configured model ({listed(sorted(config.models)) or 'none is configured'})"
                problems.add(("tiers", tier, "fallbacks", name), f": expected {expected}")
            _check_fallbacks(config, name, fallbacks, ("tiers", tier, "fallbacks", name), problems)
        for listed_model in settings.models or ():
            if listed_model not in config.models:
                expected = f"the name of a configured model ({listed(sorted(config.models)) or 'none is configured'})"
                problems.wrong(("tiers", tier, "models"), listed_model, expected, config.models)
    if config.limits.call_timeout_s > config.limits.max_timeout_s:
        expected = f"at most max_timeout_s, {config.limits.max_timeout_s:g}"
        problems.wrong(("limits", "call_timeout_s"), config.limits.call_timeout_s, expected)
    if config.breaker.open_s > config.breaker.max_open_s:
        expected = f"at most max_open_s, {config.breaker.max_open_s:g}"
        problems.wrong(("breaker", "open_s"), config.breaker.open_s, expected)
    if config.tenants.default_tier not in config.tiers:
        expected = f"the name of a tier ({listed(sorted(config.tiers))})"
        problems.wrong(("tenants", "default_tier"), config.tenants.default_tier, expected, config.tiers)


def _check_tls(server: Server, problems: Problems) -> None:
    """Refuse half of a pair: whoever names one of these files means TLS, and must not be served without."""
    if server.tls_certificate is not None and server.tls_key is None:
        problems.add(("server", "tls_certificate"), ": expected tls_key beside it, the path of its private key")
    for key in ("tls_key", "tls_client_ca"):
        if getattr(server, key) is not None and server.tls_certificate is None:
            problems.add(("server", key), ": expected tls_certificate beside it, the path of the server's certificate")
    if server.tls_minimum_version == "1.2" and server.tls_client_ca is not None:
        problems.add(
            ("server", "tls_minimum_version"),
            ': expected "1.3" beside tls_client_ca: sessions of TLS 1.2 go on with no certificate asked for',
        )


def _check_aliases(config: Config, problems: Problems) -> None:
    """Refuse an alias that could mean two models."""
    seen: dict[str, str] = {}
    for name, model in config.models.items():
        for alias in model.aliases:
            path = ("models", name, "aliases")
            if alias in config.models:
                problems.wrong(path, alias, "a name that no model has")
            elif alias in seen:
                problems.wrong(path, alias, f"each alias once; it is {seen[alias]}'s already")
            elif not 0 < len(alias) <= _MAX_ALIAS or not alias.isprintable():
                problems.wrong(path, alias, f"1 to {_MAX_ALIAS} printable characters")
            seen[alias] = name


_MAX_ALIAS = 256

# As alike as "gtp-4o" and "gpt-4o" are; "gpt-4o-mini" is another name.
_MISSPELT = 0.8


def _check_fallbacks(config: Config, name: str, fallbacks: Sequence[str], path: KeyPath, problems: Problems) -> None:
    """Refuse a misspelt fallback. One that is not configured at all is passed over, with a warning at start."""
    others = sorted(config.models.keys() - {name})
    seen: set[str] = set()
    for fallback in fallbacks:
        if fallback == name:
            problems.add(path, ": the model itself is among them: expected other models")
        elif fallback not in config.models and get_close_matches(fallback, others, cutoff=_MISSPELT):
            problems.wrong(path, fallback, f"the name of another configured model ({listed(others)})", others)
        elif fallback in seen:
            problems.wrong(path, fallback, "each model once")
        seen.add(fallback)

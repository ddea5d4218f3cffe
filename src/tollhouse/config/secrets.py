"""The secrets that a configuration refers to, fetched apart from it: many commands need none of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tollhouse.config.files import read_at_most
from tollhouse.config.model import Config
from tollhouse.config.values import SecretReference
from tollhouse.errors import StartError

ADMIN_KEY_LEAST_CHARACTERS = 24
ONLY_KEY = "api_key"
"""What the only key of a provider is called where keys have names."""
_MOST_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class Secrets:
    """The secrets themselves; none is part of the repr."""

    admin_key: str | None = field(repr=False)
    pepper: bytes | None = field(repr=False)
    provider_api_keys: dict[str, dict[str, str]] = field(repr=False)
    """By the provider's configured name: its keys by theirs, in the order of the configuration; ``api_key`` is the name
    of an only one. A provider without any has none."""
    worker_key: str | None = field(default=None, repr=False)


def resolve_secrets(
    config: Config, environ: Mapping[str, str], *, providers: bool = True, worker: bool = False
) -> Secrets:
    """Return the secrets that a configuration refers to.

    Args:
        config: the configuration.
        environ: the environment that it was loaded with.
        providers: False leaves the providers' keys alone, for commands that call no provider.
        worker: whether the key that workers call with is needed.

    Raises:
        StartError: secrets are missing, empty or unusable; one line for each, with the place of the key
            that refers to it. No message shows a secret.
    """
    vault = _Vault(environ)
    admin_key = vault.key(config.auth.admin_key, ADMIN_KEY_LEAST_CHARACTERS)
    pepper = vault.secret(config.auth.pepper)
    worker_key = vault.key(config.jobs.api_key, least_characters=1) if worker else None
    api_keys: dict[str, dict[str, str]] = {}
    for name, provider in config.providers.items() if providers else ():
        references = {key: entry.api_key for key, entry in provider.keys.items()}
        if provider.api_key is not None:
            references[ONLY_KEY] = provider.api_key
        for key, reference in references.items():
            if api_key := vault.key(reference, least_characters=1):
                api_keys.setdefault(name, {})[key] = api_key
    if vault.problems:
        raise StartError("\n".join(vault.problems))
    return Secrets(admin_key=admin_key, pepper=pepper, provider_api_keys=api_keys, worker_key=worker_key)


class _Vault:
    """Fetches secrets, and collects what is wrong with them."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self.problems: list[str] = []
        self._environ = environ

    def key(self, reference: SecretReference | None, least_characters: int) -> str | None:
        """Return a secret that travels in an HTTP header."""
        secret = self.secret(reference)
        if reference is None or secret is None:
            return None
        if not all(0x21 <= byte <= 0x7E for byte in secret):
            self._refuse(reference, "holds no usable key", "one line of visible ASCII characters, without spaces")
        elif len(secret) < least_characters:
            self._refuse(reference, "holds too short a key", f"at least {least_characters} characters")
        return secret.decode("ascii", "replace")

    def secret(self, reference: SecretReference | None) -> bytes | None:
        """Return a secret of any bytes."""
        if reference is None:
            return None
        secret = b""
        if reference.source == "file":
            try:
                secret = _without_line_end(read_at_most(Path(reference.name), _MOST_BYTES))
            except OSError as error:
                self._refuse(reference, f"cannot be read ({error.strerror})")
                return None
        elif reference.name in self._environ:
            # Bytes that are no UTF-8 come from the operating system as surrogates, and go back as they were.
            secret = self._environ[reference.name].encode("utf-8", "surrogateescape")
        else:
            self._refuse(reference, "is not set")
            return None
        if not secret:
            self._refuse(reference, "is empty")
            return None
        return secret

    def _refuse(self, reference: SecretReference, problem: str, expected: str = "it to hold the secret") -> None:
        kind = "environment variable" if reference.source == "env" else "file"
        self.problems.append(f"{reference.where}: {kind} {reference.name} {problem}: expected {expected}")


def _without_line_end(content: bytes) -> bytes:
    """Return a file's content without the one line end that editors and ``echo`` put after it."""
    return content[:-2] if content.endswith(b"\r\n") else content.removesuffix(b"\n")

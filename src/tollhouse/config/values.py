"""The kinds of values that several sections have."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from tollhouse.config.rules import accepting, is_name


class SecretReference(msgspec.Struct, frozen=True):
    """Where a secret is kept. It never holds the secret, so a configuration may be shown and logged."""

    source: Literal["env", "file"]
    name: str
    """The environment variable, or the file's absolute path."""
    where: str
    """The place in the configuration that says so, for error messages."""


Name = Annotated[str, accepting(is_name, "a name of 1 to 128 printable characters")]
Secret = Annotated[SecretReference, Meta(description="env:NAME or file:/path, never as plain text")]
Switch = Annotated[bool, Meta(description="true or false")]

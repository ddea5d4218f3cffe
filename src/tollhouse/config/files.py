"""Reading files that the operator names, which may be anything."""

import errno
import os
from pathlib import Path


def read_at_most(path: Path, most_bytes: int) -> bytes:
    """Return a file's content.

    Raises:
        OSError: it cannot be read, or holds more than ``most_bytes``: a device, say, that never ends.
    """
    with path.open("rb") as file:
        content = file.read(most_bytes + 1)
    if len(content) > most_bytes:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    return content

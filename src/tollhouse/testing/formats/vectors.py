"""Embeddings: vectors that depend on nothing but the text."""

import array
import hashlib
import math

DIMENSIONS = 8


def vector(text: str, dimensions: int | None = None) -> "array.array[float]":
    """Return a vector of length 1: the same for the same text, in 32 bits a number as vendors send it."""
    count = dimensions or DIMENSIONS
    digest = hashlib.shake_128(text.encode()).digest(2 * count)
    numbers = [int.from_bytes(digest[at : at + 2]) - 32767.5 for at in range(0, 2 * count, 2)]
    norm = math.hypot(*numbers)
    return array.array("f", [number / norm for number in numbers])

"""What arrays, texts and numbers hold, as one hash: what is kept by content is known by it."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
from numpy.typing import NDArray


def content_hash(*parts: str | int | float | NDArray[Any]) -> str:
    """SHA-256, in hexadecimal, of texts, numbers and arrays (type, shape and values), in order."""
    state = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            state.update(f"array {part.dtype.str} {part.shape} ".encode())
            state.update(np.ascontiguousarray(part).data)
        else:
            text = repr(part).encode()
            state.update(f"{type(part).__name__} {len(text)} ".encode() + text)
    return state.hexdigest()

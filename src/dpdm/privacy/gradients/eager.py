"""Compiled code in its eager form while any thread takes per-unit gradients."""

from __future__ import annotations

import sys
import threading
from typing import Any

import torch


class _ForcedEager:
    """Sets torch's stance, which all threads share, when the first enters; the last puts it back.

    Each thread putting back what it found would leave the stance as it is here.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._within = 0
        self._stance: Any = None

    def __enter__(self) -> None:
        with self._lock:
            self._within += 1
            # Before torch's compiler is imported, which takes two seconds, nothing is compiled.
            if self._stance is None and "torch._dynamo" in sys.modules:
                self._stance = torch.compiler.set_stance("force_eager")
                self._stance.__enter__()

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._within -= 1
            if self._within == 0 and self._stance is not None:
                self._stance.__exit__(None, None, None)
                self._stance = None


FORCED_EAGER = _ForcedEager()

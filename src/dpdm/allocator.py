"""What glibc's allocator does with memory that is freed; with another one nothing happens."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4  # of mallopt(3)

LARGEST_KEPT = 2**25
"""Bytes of a block above which glibc hands it back whenever it is freed: the largest value that
M_MMAP_THRESHOLD of mallopt(3) takes of itself."""

_keeps = False


def keep_freed_memory() -> None:
    """Has it keep what is freed, from now on.

    Every pass through a network takes and frees the same gigabyte in large pieces. Returned to the
    kernel each time, their pages are faulted in and zeroed anew: 29 of 305 CPU seconds of a run of
    forward and backward passes, 5 of 303 with this.
    """
    global _keeps
    _keeps = True
    _call("mallopt", _MMAP_MAX, 0)
    _call("mallopt", _TRIM_THRESHOLD, 2**31 - 1)
    _call("mallopt", _TOP_PAD, 2**26)


def hands_back_large_blocks() -> bool:
    """Whether freed blocks above ``LARGEST_KEPT`` go back to the kernel in this process."""
    return not _keeps and _function("mallopt") is not None


def give_back_freed_memory() -> None:
    """Has it return what is free now to the kernel."""
    _call("malloc_trim", 0)


def _call(name: str, *arguments: int) -> None:
    if function := _function(name):
        function(*arguments)


def _function(name: str) -> Callable[..., int] | None:
    try:
        found: Callable[..., int] = getattr(ctypes.CDLL(None), name)
    except (OSError, AttributeError, TypeError):  # not glibc
        return None
    return found

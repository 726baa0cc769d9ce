"""The errors a person sees: one line that says what was wrong, where, and what to do.

The command line prints ``error: MESSAGE`` for either class, without a traceback.
"""

from __future__ import annotations

from collections.abc import Sequence


class DpdmError(Exception):
    """The work failed: a damaged file, a spent budget, a full disk."""

    exit_status = 1


class RequestError(DpdmError, ValueError):
    """The request was wrong: an unknown key, a value that makes no promise."""

    exit_status = 2


def first_few(entries: Sequence[object], most: int, where: str = "") -> list[str]:
    """The first of them and how many are left out, so that no message grows with the data;
    ``where`` says where all are."""
    left = len(entries) - most
    return [*map(str, entries[:most]), *([f"and {left} more{where}"] if left > 0 else [])]

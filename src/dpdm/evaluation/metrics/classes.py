"""Which classes are served worse than the whole, beyond chance."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import scipy  # its stats take a second to import: loaded where they are used

SIGNIFICANT = 0.05
"""Chance of naming any class where all are served alike."""


class Worse(NamedTuple):
    """A class whose share lies below that of all the classes together."""

    name: str
    share: float
    overall: float


def served_worse(shares: Mapping[str, tuple[float, int]]) -> tuple[Worse, ...]:
    """The classes, lowest share first, that a one-sided binomial test finds below the whole.

    shares: for each class, a share of its real images (for example: classified rightly) and how
    many images there are. The test's level is divided by the number of classes (Bonferroni).
    """
    total = sum(count for _, count in shares.values())
    if len(shares) < 2 or total == 0:
        return ()
    overall = sum(share * count for share, count in shares.values()) / total
    worse = [
        Worse(name, share, overall)
        for name, (share, count) in shares.items()
        if scipy.stats.binom.cdf(np.round(share * count), count, overall)
        < SIGNIFICANT / len(shares)
    ]
    return tuple(sorted(worse, key=lambda found: found.share))

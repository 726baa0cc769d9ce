"""Kernel distance, the formula of KID (arXiv 1801.01401): unbiased squared MMD on subsets."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dpdm.errors import RequestError

Features = NDArray[np.floating]


class KernelDistance(NamedTuple):
    """Mean over subsets, and their sample standard deviation (0 of a single one)."""

    value: float
    spread: float
    subset_size: int


def kernel_distance(
    one: Features,
    other: Features,
    *,
    subsets: int = 100,
    subset_size: int = 1000,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> KernelDistance:
    """Mean of ``unbiased_mmd`` over random subsets of (N, d) and (M, d), drawn without repetition.

    Subsets are as large as the smaller set where that has fewer than ``subset_size``. Being
    unbiased, the value may come out below zero for sets that are alike.
    Raises RequestError where a set has fewer than 2 features.
    """
    size = min(subset_size, len(one), len(other))
    if size < 2:
        raise RequestError(f"a kernel distance of {size} image; give at least 2 on each side")
    generator = np.random.default_rng(seed)
    values = np.empty(subsets)
    for index in range(subsets):
        mine = one[np.sort(generator.choice(len(one), size, replace=False))]
        theirs = other[np.sort(generator.choice(len(other), size, replace=False))]
        values[index] = unbiased_mmd(mine, theirs)
        if progress is not None:
            progress(index + 1, subsets)
    spread = float(values.std(ddof=1)) if subsets > 1 else 0.0
    return KernelDistance(float(values.mean()), spread, size)


def unbiased_mmd(one: Features, other: Features) -> float:
    """Squared maximum mean discrepancy with k(x, y) = (x.y / d + 1)^3, pairs x, x left out."""
    x, y = np.asarray(one, np.float64), np.asarray(other, np.float64)
    within = _off_diagonal_mean(_kernel(x, x)) + _off_diagonal_mean(_kernel(y, y))
    return float(within - 2 * _kernel(x, y).mean())


def _kernel(x: NDArray[np.float64], y: NDArray[np.float64]) -> NDArray[np.float64]:
    product = x @ y.T / x.shape[1] + 1
    kernel: NDArray[np.float64] = product * product * product
    return kernel


def _off_diagonal_mean(kernel: NDArray[np.float64]) -> float:
    count = len(kernel)
    return float((kernel.sum() - np.trace(kernel)) / (count * (count - 1)))

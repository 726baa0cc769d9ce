"""Precision and recall (Kynkaanniemi et al. 2019), density and coverage (Naeem et al. 2020).

All four ask which points lie in balls around others, each ball reaching to its centre's k-th
nearest neighbour of its own set. k as in the papers: 3 for precision and recall (arXiv 1904.06991),
5 for density and coverage (arXiv 2002.09797). Balls are closed; the second paper's code has open
ones, which differ in exact ties alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dpdm.evaluation.metrics.neighbours import Inside, Neighbours

PRECISION_K = 3
COVERAGE_K = 5
LARGEST_K = max(PRECISION_K, COVERAGE_K)


@dataclass(frozen=True)
class Manifold:
    """The four measures; density may exceed 1, the others are shares."""

    precision: float
    """Share of synthetic points in a ball of a real one: are they like real ones?"""
    recall: float
    """Share of real points in a ball of a synthetic one: is everything there?"""
    density: float
    """Real balls around a synthetic point, on average, over k."""
    coverage: float
    """Share of real balls that hold a synthetic point."""


def real_radii(own: Neighbours) -> NDArray[np.float64]:
    """Squared radii of real balls, (M, 2): for precision, and for density and coverage.

    own: the ``LARGEST_K`` nearest of each real point among the other real ones.
    """
    return own.squared[:, [PRECISION_K - 1, COVERAGE_K - 1]]


def synthetic_radii(own: Neighbours) -> NDArray[np.float64]:
    """Squared radii of synthetic balls, (N, 1), for recall."""
    return own.squared[:, [PRECISION_K - 1]]


def manifold(in_real: Inside, in_synthetic: Inside) -> Manifold:
    """The four measures from two passes over all pairs.

    in_real: synthetic points in balls of ``real_radii``; in_synthetic: real points in balls of
    ``synthetic_radii``.
    """
    return Manifold(
        precision=float((in_real.holding[:, 0] > 0).mean()),
        recall=float((in_synthetic.holding[:, 0] > 0).mean()),
        density=float(in_real.holding[:, 1].mean() / COVERAGE_K),
        coverage=float(in_real.reached[:, 1].mean()),
    )

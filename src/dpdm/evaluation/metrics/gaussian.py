"""Frechet distance between Gaussians fitted to features, the formula of FID (arXiv 1706.08500).

The estimate from N features is biased upwards, by an amount that depends on the network and the
data and falls with about 1/N (arXiv 1911.07023): compare only values of the same two set sizes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dpdm.errors import RequestError

Float = NDArray[np.float64]
Features = NDArray[np.floating]

_BLOCK = 2000


@dataclass(frozen=True, eq=False)
class Moments:
    """Count, mean (d,) and scatter (d, d), the sum of outer products of deviations; float64.

    Moments of parts merge into those of the whole (Chan, Golub, LeVeque 1983), with deviations
    always taken from a mean, so that a large common offset costs no digits.
    """

    count: int
    mean: Float
    scatter: Float

    @classmethod
    def of(cls, features: Features) -> Moments:
        """Moments of one block, (N, d) with N >= 1."""
        block = np.asarray(features, dtype=np.float64)
        mean = block.mean(0)
        deviations = block - mean
        return cls(len(block), mean, deviations.T @ deviations)

    @classmethod
    def stream(cls, blocks: Iterable[Features]) -> Moments:
        """Moments of everything in an iterable of non-empty blocks (N_i, d), at least one."""
        parts = (cls.of(block) for block in blocks)
        total = next(parts)
        for part in parts:
            total = total.merged(part)
        return total

    def merged(self, other: Moments) -> Moments:
        """Moments of both together."""
        count = self.count + other.count
        step = other.mean - self.mean
        return Moments(
            count,
            self.mean + step * (other.count / count),
            self.scatter
            + other.scatter
            + np.outer(step, step) * (self.count * other.count / count),
        )

    @property
    def covariance(self) -> Float:
        """Unbiased covariance (d, d), as FID takes it.

        Raises:
            RequestError: fewer than two features.
        """
        if self.count < 2:
            raise RequestError(f"a covariance of {self.count} image; give at least 2")
        return self.scatter / (self.count - 1)


def moments(features: Features) -> Moments:
    """Moments of features (N, d), read in blocks of 2,000."""
    return Moments.stream(
        features[start : start + _BLOCK] for start in range(0, len(features), _BLOCK)
    )


def frechet_distance(
    mean: Float, covariance: Float, other_mean: Float, other_covariance: Float
) -> float:
    """|m1 - m2|^2 + tr S1 + tr S2 - 2 tr (S1 S2)^(1/2), means (d,), covariances (d, d).

    The eigenvalues of S1 S2 are those of the symmetric S1^(1/2) S2 S1^(1/2), and so the squares of
    the singular values of S1^(1/2) S2^(1/2). The trace is taken from these: square roots of
    computed eigenvalues would lose half of the digits where a covariance is singular.
    """
    step = mean - other_mean
    cross = np.linalg.svd(_root(covariance) @ _root(other_covariance), compute_uv=False).sum()
    value = step @ step + np.trace(covariance) + np.trace(other_covariance) - 2 * cross
    return float(max(value, 0.0))


def frechet_between(one: Moments, other: Moments) -> float:
    """Frechet distance of two sets by their moments."""
    return frechet_distance(one.mean, one.covariance, other.mean, other.covariance)


def _root(covariance: Float) -> Float:
    """The symmetric square root of a positive semidefinite matrix."""
    values, vectors = np.linalg.eigh(covariance)
    root: Float = (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T
    return root

"""Distances between sets of features, kept in a store piece by piece."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from dpdm.evaluation.features import FeatureSet
from dpdm.evaluation.metrics.gaussian import frechet_between, moments
from dpdm.evaluation.metrics.kernel import KernelDistance, kernel_distance
from dpdm.evaluation.metrics.manifold import (
    LARGEST_K,
    Manifold,
    manifold,
    real_radii,
    synthetic_radii,
)
from dpdm.evaluation.metrics.neighbours import Inside, Neighbours, inside_balls, nearest
from dpdm.evaluation.progress import ProgressCallback
from dpdm.evaluation.store import Store
from dpdm.hashing import content_hash

_PIECE = 8192


@dataclass(frozen=True)
class Measuring:
    """Where results are kept, and who is told how far the work is."""

    store: Store
    progress: ProgressCallback | None = None

    def nearest(
        self, queries: FeatureSet, references: FeatureSet, k: int, what: str, *, same: bool = False
    ) -> Neighbours:
        """As ``metrics.neighbours.nearest``; ``same``: the queries are the references."""
        pieces = []
        count = len(queries.values)
        for start in range(0, count, _PIECE):
            part = queries.values[start : start + _PIECE]
            key = content_hash("nearest", queries.key, references.key, k, same, start)
            own = start if same else None
            tell = self._from(start, count, what)

            def compute(
                part: NDArray[np.generic] = part,
                own: int | None = own,
                tell: Callable[[int, int], None] = tell,
            ) -> NDArray[np.float64]:
                found = nearest(part, references.values, k, own=own, progress=tell)
                return np.stack([found.squared, found.indices.astype(np.float64)])

            pieces.append(self.store.array(key, compute))
            self.tell(what, start + len(part), count)
        both = np.concatenate(pieces, axis=1)
        return Neighbours(both[0], both[1].astype(np.int64))

    def inside_balls(
        self, points: FeatureSet, centres: FeatureSet, squared_radii: NDArray[np.float64], what: str
    ) -> Inside:
        """As ``metrics.neighbours.inside_balls``."""
        radii = content_hash(squared_radii)
        count = len(points.values)
        holding = np.empty((count, squared_radii.shape[1]), np.int64)
        reached = np.zeros(squared_radii.shape, np.bool_)
        for start in range(0, count, _PIECE):
            part = points.values[start : start + _PIECE]
            key = content_hash("inside", points.key, centres.key, radii, start)
            tell = self._from(start, count, what)

            def compute(
                part: NDArray[np.generic] = part, tell: Callable[[int, int], None] = tell
            ) -> NDArray[np.int64]:
                found = inside_balls(part, centres.values, squared_radii, progress=tell)
                return np.concatenate([found.holding, found.reached.astype(np.int64)])

            both = self.store.array(key, compute)
            holding[start : start + len(part)] = both[: len(part)]
            reached |= both[len(part) :].astype(np.bool_)
            self.tell(what, start + len(part), count)
        return Inside(holding, reached)

    def frechet(self, one: FeatureSet, other: FeatureSet, what: str) -> float:
        """The Frechet distance of two sets."""
        self.tell(what, 0, 1)
        value = self.store.array(
            content_hash("frechet", one.key, other.key),
            lambda: np.array(frechet_between(moments(one.values), moments(other.values))),
        )
        self.tell(what, 1, 1)
        return float(value)

    def kernel(self, one: FeatureSet, other: FeatureSet, what: str) -> KernelDistance:
        """The kernel distance of two sets: 100 subsets of 1,000."""
        value, spread, size = self.store.array(
            content_hash("kernel", one.key, other.key),
            lambda: np.array(
                kernel_distance(
                    one.values,
                    other.values,
                    progress=lambda done, total: self.tell(what, done, total),
                )
            ),
        )
        return KernelDistance(float(value), float(spread), int(size))

    def manifold(self, synthetic: FeatureSet, real: FeatureSet, what: str) -> Manifold:
        """Precision, recall, density and coverage; both sets have more than 5 images."""
        of_real = self.nearest(real, real, LARGEST_K, f"{what}: real neighbours", same=True)
        of_synthetic = self.nearest(
            synthetic, synthetic, LARGEST_K, f"{what}: synthetic neighbours", same=True
        )
        return manifold(
            self.inside_balls(synthetic, real, real_radii(of_real), f"{what}: precision"),
            self.inside_balls(real, synthetic, synthetic_radii(of_synthetic), f"{what}: recall"),
        )

    def tell(self, what: str, done: int, total: int) -> None:
        """Report progress."""
        if self.progress is not None:
            self.progress(what, done, total)

    def _from(self, start: int, count: int, what: str) -> Callable[[int, int], None]:
        # The end of a piece is told where it is put together, also where it was kept.
        def tell(done: int, total: int) -> None:
            if done < total:
                self.tell(what, start + done, count)

        return tell

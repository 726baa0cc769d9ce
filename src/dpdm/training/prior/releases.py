"""The private side of the prior: coefficients and labels, released through mechanisms alone.

Each method states what a unit contributes; the mechanism clips it and owns sensitivity and noise.
"""

from __future__ import annotations

import math

import numpy as np

from dpdm.privacy import NoisedScatter, NoisedSum, Session, clip_rows
from dpdm.training.prior.design import CLUSTER_STEPS, PriorDesign
from dpdm.training.prior.shrinkage import Array, Integers


class Releases:
    """Holds DCT coefficients (N, P) and labels (N,) of the private images."""

    def __init__(
        self,
        private_coefficients: Array,
        private_labels: Integers,
        classes: int,
        design: PriorDesign,
        session: Session,
    ) -> None:
        self._private_coefficients = private_coefficients
        self._private_labels = private_labels
        self._session = session
        self._design = design
        self.classes = classes
        self.pixels = private_coefficients.shape[1]

    def moments(self) -> tuple[Array, float, float, Array, float]:
        """Sums over all images of (one-hot class, |modelled|^2/P, |rest|^2/P, modelled/sqrt P).

        The three parts have norm at most 1 each, since |image|^2 <= P in [-1, 1]: sqrt 3 together.
        """
        dimension, pixels = self._design.dimension, self.pixels
        modelled = self._private_coefficients[:, :dimension]
        squares = np.stack(
            [
                (modelled**2).sum(axis=1),
                (self._private_coefficients[:, dimension:] ** 2).sum(axis=1),
            ],
            axis=1,
        )
        one_hot = np.eye(self.classes)[self._private_labels]
        vectors = np.concatenate([one_hot, squares / pixels, modelled / math.sqrt(pixels)], axis=1)
        mechanism = NoisedSum("prior moments", self._design.noise_of("moments"), math.sqrt(3.0))
        noised = mechanism.release(vectors, self._session)[0]
        counts, total = noised[: self.classes], noised[self.classes + 2 :] * math.sqrt(pixels)
        inside, rest = noised[self.classes : self.classes + 2] * pixels
        return counts, inside, rest, total, mechanism.deviation

    def class_sums(self, centre: Array, max_norm: float) -> tuple[Array, float]:
        """Per class, the sum of (image - centre): (Y, D) and the noise of an entry."""
        mechanism = NoisedSum(
            "prior class means", self._design.noise_of("means"), max_norm, self.classes
        )
        vectors = self._private_coefficients[:, : len(centre)] - centre
        noised = mechanism.release(vectors, self._session, self._private_labels)
        return noised, mechanism.deviation

    def scatter(self, means: Array, max_norm: float) -> tuple[Array, float]:
        """Pooled scatter about the class means: (D, D) and the noise of an off-diagonal entry."""
        mechanism = NoisedScatter(
            "prior pooled scatter", self._design.noise_of("scatter"), max_norm
        )
        noised = mechanism.release(self._residuals(means), self._session)[0]
        return noised, mechanism.deviation / math.sqrt(2.0)

    def cluster_step(
        self, means: Array, directions: Array, centres: Array, max_norm: float, step: int
    ) -> tuple[Array, Array, float]:
        """One Lloyd step: counts (Y, K), sums (Y, K, R) of projections, noise of a sum's entry.

        A count is carried as max_norm/2, so that a unit's whole vector has norm sqrt(5)/2 max_norm.
        """
        classes, clusters, _ = centres.shape
        projected = self._residuals(means) @ directions
        nearest = self._nearest(projected, centres)
        projected = clip_rows(projected, max_norm)
        vectors = np.concatenate([np.full((len(projected), 1), max_norm / 2), projected], axis=1)
        kind = "clusters" if step == CLUSTER_STEPS else "cluster search"
        mechanism = NoisedSum(
            f"prior {kind}",
            self._design.noise_of(kind),
            max_norm * math.sqrt(1.25),
            classes * clusters,
        )
        segments = self._private_labels * clusters + nearest
        noised = mechanism.release(vectors, self._session, segments, step)
        noised = noised.reshape(classes, clusters, -1)
        return noised[..., 0] / (max_norm / 2), noised[..., 1:], mechanism.deviation

    def class_scatter(
        self, means: Array, directions: Array, offsets: Array, max_norm: float
    ) -> tuple[Array, float]:
        """Per class, the scatter about the nearest centre: (Y, D, D) and off-diagonal noise."""
        mechanism = NoisedScatter(
            "prior class scatter", self._design.noise_of("class scatter"), max_norm, self.classes
        )
        vectors = self._residuals(means)
        if offsets.shape[1] > 1:
            nearest = self._nearest(vectors @ directions, offsets)
            vectors = vectors - offsets[self._private_labels, nearest] @ directions.T
        noised = mechanism.release(vectors, self._session, self._private_labels)
        return noised, mechanism.deviation / math.sqrt(2.0)

    def _residuals(self, means: Array) -> Array:
        """Every image's modelled coefficients minus its class's mean, (N, D)."""
        return self._private_coefficients[:, : means.shape[1]] - means[self._private_labels]

    def _nearest(self, projected: Array, centres: Array) -> Integers:
        nearest = np.zeros(len(projected), np.int64)
        for label in range(self.classes):
            members = self._private_labels == label
            products = projected[members] @ centres[label].T
            nearest[members] = np.argmin((centres[label] ** 2).sum(axis=1) - 2 * products, axis=1)
        return nearest

"""The private side of the prior: what each image contributes, released through mechanisms alone.

Contributions are functions of one image, its label and what was released before; the mechanism
clips them and owns sensitivity and noise.
"""

from __future__ import annotations

import math

import numpy as np

from dpdm.privacy import NoisedScatter, NoisedSum, PrivateUnits, Session, clip_rows
from dpdm.training.prior.design import CLUSTER_STEPS, PriorDesign
from dpdm.training.prior.shrinkage import Array, Integers

POSE_NORM = 2.0
"""Bound on (1, pose, pose squared) of an image: poses are within [-1, 1], mostly near 0."""

_TEXTURE_CLIP = 2.0
"""Clip norm of an image's energies beyond the modelled frequencies, over their mean sum."""


class Releases:
    """The releases of a prior, from sealed rows and labels (N,).

    A row is an image's features, see ``features.py``: D modelled coefficients, Q pose parameters, G
    energies of bands of the other coefficients. Before the poses are released, rows are poses only.
    ``whose`` begins the names of the mechanisms.
    """

    def __init__(
        self,
        rows: PrivateUnits,
        pixels: int,
        classes: int,
        design: PriorDesign,
        session: Session,
        whose: str = "prior",
    ) -> None:
        self._units = rows
        self._session = session
        self._design = design
        self._whose = whose
        self._scale: Array | None = None
        self.classes = classes
        self.pixels = pixels

    def poses(self) -> tuple[Array, float]:
        """Per class, sums of (1, pose, pose^2): (Y, 1 + 2 Q), and the noise of an entry."""

        def contribution(rows: Array, private: Integers | None) -> tuple[Array, Integers]:
            wide = rows.astype(np.float64)
            vectors = np.concatenate([np.ones((len(wide), 1)), wide, wide**2], axis=1)
            return vectors, _labels(rows, private)

        mechanism = NoisedSum(
            f"{self._whose} poses", self._design.noise_of("poses"), POSE_NORM, self.classes
        )
        return mechanism.release(self._units, contribution, self._session), mechanism.deviation

    def moments(self) -> tuple[Array, float, float, Array, float]:
        """Sums over all images of (one-hot class, |modelled|^2/P, |rest|^2/P, modelled/sqrt P).

        The three parts have norm at most 1 each where |image|^2 <= P, as in [-1, 1]: sqrt 3
        together. A brightened image may exceed that and is clipped.
        """
        dimension, pixels = self._design.dimension, self.pixels
        vector = dimension + self._design.pose

        def contribution(rows: Array, labels: Integers | None) -> Array:
            modelled, rest = rows[:, :dimension].astype(np.float64), rows[:, vector:]
            squares = np.stack([(modelled**2).sum(axis=1), rest.sum(axis=1)], axis=1)
            one_hot = np.eye(self.classes)[_labels(rows, labels)]
            return np.concatenate([one_hot, squares / pixels, modelled / math.sqrt(pixels)], axis=1)

        mechanism = NoisedSum(
            f"{self._whose} moments", self._design.noise_of("moments"), math.sqrt(3.0)
        )
        noised = mechanism.release(self._units, contribution, self._session)[0]
        counts, total = noised[: self.classes], noised[self.classes + 2 :] * math.sqrt(pixels)
        inside, rest = noised[self.classes : self.classes + 2] * pixels
        return counts, inside, rest, total, mechanism.deviation

    def weigh_poses(self, weight: float) -> None:
        """From here on a pose parameter counts so many times a coefficient of a row's vector."""
        first, last = self._design.dimension, self._design.dimension + self._design.pose
        if first < last:
            self._scale = np.ones(last, np.float32)
            self._scale[first:] = weight

    def _vectors(self, rows: Array, width: int) -> Array:
        """The modelled part (n, ``width``) of rows, poses weighed."""
        vectors: Array = rows[:, :width]
        return vectors if self._scale is None else vectors * self._scale[:width]

    def texture(self, mean_energy: float) -> Array:
        """Per class, the sum of the energies of the bands that are not modelled: (Y, G)."""
        vector = self._design.dimension + self._design.pose

        def contribution(rows: Array, private: Integers | None) -> tuple[Array, Integers]:
            return rows[:, vector:].astype(np.float64), _labels(rows, private)

        max_norm = _TEXTURE_CLIP * mean_energy
        noise = self._design.noise_of("texture")
        mechanism = NoisedSum(f"{self._whose} texture", noise, max_norm, self.classes)
        return mechanism.release(self._units, contribution, self._session)

    def class_sums(self, centre: Array, max_norm: float) -> tuple[Array, float]:
        """Per class, the sum of (image - centre): (Y, D) and the noise of an entry."""

        def contribution(rows: Array, labels: Integers | None) -> tuple[Array, Integers]:
            return self._vectors(rows, len(centre)) - centre, _labels(rows, labels)

        mechanism = NoisedSum(
            f"{self._whose} class means", self._design.noise_of("means"), max_norm, self.classes
        )
        return mechanism.release(self._units, contribution, self._session), mechanism.deviation

    def scatter(self, means: Array, max_norm: float) -> tuple[Array, float]:
        """Pooled scatter about the class means: (D, D) and the noise of an off-diagonal entry."""
        mechanism = NoisedScatter(
            f"{self._whose} pooled scatter", self._design.noise_of("scatter"), max_norm
        )
        noised = mechanism.release(
            self._units,
            lambda rows, labels: self._residuals(rows, _labels(rows, labels), means),
            self._session,
        )
        return noised[0], mechanism.deviation / math.sqrt(2.0)

    def cluster_step(
        self, means: Array, directions: Array, centres: Array, max_norm: float, step: int
    ) -> tuple[Array, Array, float]:
        """One Lloyd step: counts (Y, K), sums (Y, K, R) of projections, noise of a sum's entry.

        A count is carried as max_norm/2, so that a unit's whole vector has norm sqrt(5)/2 max_norm.
        """
        classes, clusters, _ = centres.shape

        def contribution(rows: Array, private: Integers | None) -> tuple[Array, Integers]:
            labels = _labels(rows, private)
            projected = self._residuals(rows, labels, means) @ directions
            nearest = _nearest(projected, labels, centres)
            projected = clip_rows(projected, max_norm)
            ones = np.full((len(projected), 1), max_norm / 2)
            return np.concatenate([ones, projected], axis=1), labels * clusters + nearest

        kind = "clusters" if step == CLUSTER_STEPS else "cluster search"
        mechanism = NoisedSum(
            f"{self._whose} {kind}",
            self._design.noise_of(kind),
            max_norm * math.sqrt(1.25),
            classes * clusters,
        )
        noised = mechanism.release(self._units, contribution, self._session, step)
        noised = noised.reshape(classes, clusters, -1)
        return noised[..., 0] / (max_norm / 2), noised[..., 1:], mechanism.deviation

    def class_scatter(
        self, means: Array, directions: Array, offsets: Array, frame: Array, max_norm: float
    ) -> tuple[Array, float]:
        """Per class, the scatter about the nearest centre in the directions ``frame`` (E, R),
        orthonormal: (Y, R, R) and off-diagonal noise."""

        def contribution(rows: Array, private: Integers | None) -> tuple[Array, Integers]:
            labels = _labels(rows, private)
            vectors, _ = self._about_centres(rows, labels, means, directions, offsets)
            return vectors @ frame, labels

        mechanism = NoisedScatter(
            f"{self._whose} class scatter",
            self._design.noise_of("class scatter"),
            max_norm,
            self.classes,
        )
        noised = mechanism.release(self._units, contribution, self._session)
        return noised, mechanism.deviation / math.sqrt(2.0)

    def cluster_scatter(
        self,
        means: Array,
        directions: Array,
        offsets: Array,
        frames: Array,
        scales: Array,
        max_norm: float,
    ) -> tuple[Array, float]:
        """Per class and cluster, the scatter about the centre in the class's directions ``frames``
        (Y, E, S), orthonormal, over the class's scale (Y,): (Y, K, S, S) and off-diagonal noise."""
        classes, clusters, _ = offsets.shape

        def contribution(rows: Array, private: Integers | None) -> tuple[Array, Integers]:
            labels = _labels(rows, private)
            vectors, nearest = self._about_centres(rows, labels, means, directions, offsets)
            turned = np.empty((len(rows), frames.shape[2]))
            for label, (frame, scale) in enumerate(zip(frames, scales, strict=True)):
                members = labels == label
                turned[members] = vectors[members] @ frame / scale
            return turned, labels * clusters + nearest

        mechanism = NoisedScatter(
            f"{self._whose} cluster scatter",
            self._design.noise_of("cluster scatter"),
            max_norm,
            classes * clusters,
        )
        noised = mechanism.release(self._units, contribution, self._session)
        by_cluster = noised.reshape(classes, clusters, *noised.shape[1:])
        return by_cluster, mechanism.deviation / math.sqrt(2.0)

    def _residuals(self, rows: Array, labels: Integers, means: Array) -> Array:
        """Every image's modelled coefficients minus its class's mean, (N, D)."""
        residuals: Array = self._vectors(rows, means.shape[1]) - means[labels]
        return residuals

    def _about_centres(
        self, rows: Array, labels: Integers, means: Array, directions: Array, offsets: Array
    ) -> tuple[Array, Integers]:
        """Every image's vector minus the nearest of its class's centres, and which that is."""
        vectors = self._residuals(rows, labels, means)
        if offsets.shape[1] == 1:
            return vectors, np.zeros(len(rows), np.int64)
        nearest = _nearest(vectors @ directions, labels, offsets)
        return vectors - offsets[labels, nearest] @ directions.T, nearest


def _labels(rows: Array, labels: Integers | None) -> Integers:
    return np.zeros(len(rows), np.int64) if labels is None else labels


def _nearest(projected: Array, labels: Integers, centres: Array) -> Integers:
    """The nearest of its class's centres (Y, K, R) for each image."""
    nearest = np.zeros(len(projected), np.int64)
    for label in range(len(centres)):
        members = labels == label
        products = projected[members] @ centres[label].T
        nearest[members] = np.argmin((centres[label] ** 2).sum(axis=1) - 2 * products, axis=1)
    return nearest

"""Fits the mixture of Gaussians to noised statistics of the private images (DESIGN.md, "The
prior").

The order of the releases: moments (class counts, mean squared norms, pooled mean), class means,
pooled within-class scatter, clusters, scatter per class. Each clips at a norm that earlier
releases give, so nothing is tuned by hand. Only mechanisms read the private images; the rest is
post-processing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from dpdm.diffusion.dct import DctFrame
from dpdm.diffusion.images import to_model_space
from dpdm.diffusion.mixture import Mixture
from dpdm.privacy import PrivateUnits, Session
from dpdm.training.prior.design import CLUSTER_STEPS, PriorDesign
from dpdm.training.prior.releases import Releases
from dpdm.training.prior.shrinkage import (
    Array,
    Integers,
    clean_covariance,
    clean_deviation,
    frequency_bands,
    positive_definite,
    shrink_counts,
    shrink_means,
)

_CLIP = 1.15
"""Clip norm over the root mean square that an earlier release gives (DESIGN.md: 1.1 to 1.3)."""

_SMALLEST_VARIANCE = 1e-4
"""Least variance of a DCT coefficient of an image in [-1, 1]."""

_SEARCH_DIMENSION = 12
"""Leading directions of the pooled covariance in which clusters are sought."""

_LARGEST_RANK = 128
"""Directions kept per class; the others share one variance."""


def fit_prior(
    units: PrivateUnits,
    image_shape: tuple[int, int, int],
    classes: int,
    design: PriorDesign,
    session: Session,
    seed: int,
) -> Mixture:
    """Releases the statistics of ``design`` and fits the prior.

    Args:
        units: images uint8 (N, H, W, C) with labels (N,) in [0, classes), or without any.
        image_shape: (C, H, W).
        classes: number of classes, 0 or 1 for unlabelled data.
        design: what is released and with which noise.
        session: ledger and noise source.
        seed: of the public starting points of the cluster search.
    """
    frame = DctFrame(image_shape, design.dimension)
    releases = Releases(
        units.transform(lambda images: _coefficients(frame, images)),
        math.prod(image_shape),
        max(classes, 1),
        design,
        session,
    )
    statistics = _collect(releases, design, np.random.default_rng(seed))
    return _mixture(image_shape, statistics)


def _coefficients(frame: DctFrame, images: npt.NDArray[np.uint8]) -> Array:
    parts = []
    for start in range(0, len(images), 4096):
        # A copy: torch does not take the read-only arrays of a data set.
        part = to_model_space(np.array(images[start : start + 4096]))
        parts.append(frame.to_coefficients(part).numpy())
    return np.concatenate(parts).astype(np.float64)


@dataclass(frozen=True)
class _Statistics:
    """Noised and shrunk: everything here may leave."""

    counts: Array  # (Y,)
    centres: Array  # (Y, K, D)
    weights: Array  # (Y, K)
    covariances: Array  # (Y, D, D)
    rest_variance: float
    pixels: int


def _collect(
    releases: Releases, design: PriorDesign, generator: np.random.Generator
) -> _Statistics:
    pixels, dimension = releases.pixels, design.dimension
    bands = frequency_bands(dimension)
    raw_counts, inside, rest, total, deviation = releases.moments()
    counts = shrink_counts(raw_counts, deviation)
    size = float(counts.sum())
    centre = total / size
    mean_square = float(np.clip(inside / size, 0.01 * pixels, pixels))
    rest_square = float(np.clip(rest / size, 0.0, pixels))

    centre_square = float((centre**2).sum()) - dimension * pixels * (deviation / size) ** 2
    spread = max(mean_square - centre_square, 0.05 * mean_square)
    sums, deviation = releases.class_sums(centre, _CLIP * math.sqrt(spread))
    variances = (deviation / counts) ** 2
    means = shrink_means(centre + sums / counts[:, None], variances, counts, bands)

    between = float((counts / size) @ (means**2).sum(axis=1))
    within = max(mean_square - between, 0.05 * mean_square)
    scatter, deviation = releases.scatter(means, _CLIP * math.sqrt(within))
    deviation /= size
    pooled = clean_covariance(scatter / size, deviation, bands, _SMALLEST_VARIANCE)

    offsets = np.zeros((len(counts), 1, 1))
    weights = np.ones((len(counts), 1))
    directions = np.zeros((dimension, 1))
    if design.clusters > 1:
        offsets, weights, directions = _clusters(releases, means, pooled, counts, design, generator)
        explained = float((counts / size) @ (weights * (offsets**2).sum(axis=2)).sum(axis=1))
        within = max(within - explained, 0.3 * within)
    covariances = np.broadcast_to(pooled, (len(counts), dimension, dimension))
    if design.class_covariance:
        noised, noise = releases.class_scatter(
            means, directions, offsets, _CLIP * math.sqrt(within)
        )
        if design.clusters > 1:
            pooled = _pooled_within_clusters(
                scatter / size,
                deviation,
                noised,
                noise,
                counts,
                directions,
                offsets,
                weights,
                bands,
            )
        covariances = np.stack(
            [
                positive_definite(
                    pooled + clean_deviation(part / count - pooled, noise / count, bands),
                    _SMALLEST_VARIANCE,
                )
                for part, count in zip(noised, counts, strict=True)
            ]
        )
    centres = means[:, None] + offsets @ directions.T
    rest_variance = rest_square / max(pixels - dimension, 1)
    return _Statistics(counts, centres, weights, covariances, rest_variance, pixels)


def _clusters(
    releases: Releases,
    means: Array,
    pooled: Array,
    counts: Array,
    design: PriorDesign,
    generator: np.random.Generator,
) -> tuple[Array, Array, Array]:
    """Private k-means per class: offsets (Y, K, R), weights (Y, K), directions (D, R)."""
    values, vectors = np.linalg.eigh(pooled)
    rank = min(_SEARCH_DIMENSION, design.dimension)
    directions, values = vectors[:, ::-1][:, :rank], values[::-1][:rank]
    shape = (len(counts), design.clusters, rank)
    offsets = 0.7 * np.sqrt(values) * generator.standard_normal(shape)
    weights = np.full(shape[:2], 1.0 / design.clusters)
    max_norm = _CLIP * math.sqrt(float(values.sum()))
    for step in range(CLUSTER_STEPS + 1):
        found, sums, deviation = releases.cluster_step(means, directions, offsets, max_norm, step)
        sizes = np.maximum(found, 0.2 * counts[:, None] / design.clusters)
        variances = (deviation / sizes) ** 2
        offsets = sums / sizes[..., None]
        signal = max(float((offsets**2).mean() - variances.mean()), 1e-9)
        offsets *= (signal / (signal + variances))[..., None]
        weights = sizes / sizes.sum(axis=1, keepdims=True)
    offsets -= (weights[..., None] * offsets).sum(axis=1, keepdims=True)
    return offsets, weights, directions


def _pooled_within_clusters(
    total: Array,
    total_noise: float,
    noised: Array,
    noise: float,
    counts: Array,
    directions: Array,
    offsets: Array,
    weights: Array,
    bands: Integers,
) -> Array:
    """Covariance within clusters, pooled: two noised estimates weighted by their precision."""
    size = float(counts.sum())
    spread = np.einsum("y,yk,ykr,yks->rs", counts / size, weights, offsets, offsets)
    first = total - directions @ spread @ directions.T
    second, second_noise = noised.sum(axis=0) / size, noise * math.sqrt(len(counts)) / size
    precisions = (1.0 / max(total_noise, 1e-12) ** 2, 1.0 / max(second_noise, 1e-12) ** 2)
    estimate = (precisions[0] * first + precisions[1] * second) / sum(precisions)
    return clean_covariance(estimate, sum(precisions) ** -0.5, bands, _SMALLEST_VARIANCE)


def _mixture(image_shape: tuple[int, int, int], statistics: _Statistics) -> Mixture:
    dimension = statistics.centres.shape[2]
    rank = min(dimension, _LARGEST_RANK)
    bases, variances, floors = [], [], []
    for covariance in statistics.covariances:
        values, vectors = np.linalg.eigh(covariance)
        bases.append(vectors[:, ::-1][:, :rank])
        variances.append(values[::-1][:rank])
        floors.append(values[: dimension - rank].mean() if rank < dimension else 0.0)
    rest = np.full(statistics.pixels - dimension, statistics.rest_variance)
    return Mixture.build(
        image_shape,
        class_weights=_tensor(statistics.counts / statistics.counts.sum()),
        weights=_tensor(statistics.weights),
        means=_tensor(statistics.centres),
        basis=_tensor(np.stack(bases)),
        variances=_tensor(np.stack(variances)),
        floor=_tensor(np.array(floors)),
        rest=_tensor(rest),
    )


def _tensor(array: Array) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(torch.float32)

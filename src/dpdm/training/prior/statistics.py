"""Post-processing of the prior's releases, in their order: what the mixture is built from.

Each release clips at a norm that earlier ones give, so nothing is tuned by hand. Only mechanisms
read the private images; the rest is post-processing that knows its noise.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from dpdm.training.prior.covariance import (
    clean_covariance,
    leading_directions,
    positive_definite,
    spectrum,
)
from dpdm.training.prior.design import CLUSTER_STEPS, PriorDesign
from dpdm.training.prior.releases import Releases
from dpdm.training.prior.shrinkage import (
    Array,
    Integers,
    bands_by_axis,
    clean_deviation,
    shrink_counts,
    shrink_means,
)

_CLIP = 1.15
"""Clip norm over the root mean square that an earlier release gives (DESIGN.md: 1.1 to 1.3)."""

_CLUSTER_CLIP = 1.6
"""Clip norm of an image about its cluster's centre over its class's root mean square: clusters
differ, and a tighter one takes from the wide ones."""

_SMALLEST_VARIANCE = 1e-4
"""Least variance of a DCT coefficient of an image in [-1, 1]."""

_SEARCH_DIMENSION = 12
"""Leading directions of the pooled covariance in which clusters are sought."""

_POSE_SHARE = 0.1
"""Mean square of the pose in a vector, over that of the coefficients about their mean."""


@dataclass(frozen=True)
class Statistics:
    """Noised and shrunk: everything here may leave. E = D + Q."""

    counts: Array  # (Y,)
    centres: Array  # (Y, K, E)
    weights: Array  # (Y, K)
    variances: Array  # (Y, E) of each class in its own directions, from the largest down
    directions: Array  # (Y, E, E), these, in columns
    roots: Array  # (Y, K, S, S): A A^T is a cluster's covariance in its class's leading directions
    rest_square: float  # mean energy of an image beyond the D coefficients
    edge: Array  # (C,) variance of the highest modelled frequencies, by axis of colour
    texture: Array | None  # (Y, G) mean energies
    pose_weight: float
    means: Array  # (Y, E)
    within: Array  # (E, E) covariance about these, of all classes together


def collect(
    releases: Releases, design: PriorDesign, axes: Integers, generator: np.random.Generator
) -> Statistics:
    """Releases moments, texture, means, scatters and clusters, each cleaned before the next.

    ``axes`` (D,) are the axes of colour, from 0 up, of the modelled coefficients.
    """
    pixels, dimension = releases.pixels, design.dimension
    bands, colours = bands_by_axis(axes), int(axes.max()) + 1
    raw_counts, inside, rest, total, deviation = releases.moments()
    counts = shrink_counts(raw_counts, deviation)
    size = float(counts.sum())
    centre = total / size
    mean_square = float(np.clip(inside / size, 0.01 * pixels, pixels))
    rest_square = float(np.clip(rest / size, 1e-6 * pixels, pixels))
    texture = None
    if "texture" in design.shares:
        texture = _texture(releases, max(rest_square, 1e-3 * pixels), counts)

    centre_square = float((centre**2).sum()) - dimension * pixels * (deviation / size) ** 2
    spread = max(mean_square - centre_square, 0.05 * mean_square)
    pose_square = _POSE_SHARE * spread * (design.pose > 0)
    pose_weight = math.sqrt(pose_square / max(design.pose, 1))
    releases.weigh_poses(pose_weight)
    bands = np.concatenate([bands, np.full(design.pose, bands.max() + 1)])
    axes = np.concatenate([axes, np.full(design.pose, colours)])
    centre = np.concatenate([centre, np.zeros(design.pose)])
    spread += pose_square

    sums, deviation = releases.class_sums(centre, _CLIP * math.sqrt(spread))
    variances = (deviation / counts) ** 2
    means = shrink_means(centre + sums / counts[:, None], variances, counts, bands)

    between = float((counts / size) @ (means**2).sum(axis=1))
    within = max(mean_square + pose_square - between, 0.05 * mean_square)
    scatter, deviation = releases.scatter(means, _CLIP * math.sqrt(within))
    deviation /= size
    pooled = clean_covariance(scatter / size, deviation, _SMALLEST_VARIANCE, axes)
    about_means = pooled
    edge = _edge(scatter / size, deviation, axes, colours)

    offsets = np.zeros((len(counts), 1, 1))
    weights = np.ones((len(counts), 1))
    directions = np.zeros((len(centre), 1))
    if design.clusters > 1:
        offsets, weights, directions = _clusters(releases, means, pooled, counts, design, generator)
    covariances = np.broadcast_to(pooled, (len(counts), *pooled.shape))
    if design.directions:
        _, frame = leading_directions(pooled, design.directions)
        shares = counts / size
        spread = np.einsum("y,yk,ykr,yks->rs", shares, weights, offsets, offsets)
        between = directions @ spread @ directions.T
        inside = float(np.einsum("dr,de,er->", frame, pooled - between, frame))
        max_norm = _CLIP * math.sqrt(max(inside, 0.3 * within))
        noised, noise = releases.class_scatter(means, directions, offsets, frame, max_norm)
        if design.clusters > 1:
            apart = frame @ noised.sum(axis=0) @ frame.T / size
            pooled = _within_clusters(
                (scatter / size - between, deviation),
                (apart, noise * math.sqrt(len(counts)) / size),
                axes=axes,
            )
        base = frame.T @ pooled @ frame
        _, vectors = leading_directions(base, len(base))
        covariances = np.stack(
            [
                positive_definite(
                    pooled
                    + frame @ clean_deviation(own / count - base, noise / count, vectors) @ frame.T,
                    _SMALLEST_VARIANCE,
                )
                for own, count in zip(noised, counts, strict=True)
            ]
        )
    found = [leading_directions(own, len(own)) for own in covariances]
    variances, frames = (np.stack(part) for part in zip(*found, strict=True))
    roots = np.zeros((*weights.shape, 0, 0))
    if design.cluster_directions:
        sizes, leading = counts[:, None] * weights, slice(design.cluster_directions)
        own = variances[:, leading], frames[:, :, leading]
        roots = _roots(releases, means, directions, offsets, sizes, *own)
    centres = means[:, None] + offsets @ directions.T
    return Statistics(
        counts,
        centres,
        weights,
        variances,
        frames,
        roots,
        rest_square,
        edge,
        texture,
        pose_weight,
        means,
        about_means * (within / float(np.trace(about_means))),
    )


def _edge(scatter: Array, deviation: float, axes: Integers, colours: int) -> Array:
    """Variance of the highest frequencies of the first axes (``colours``,); where that is below its
    own noise, the noise."""
    base = spectrum(scatter, _SMALLEST_VARIANCE, axes)
    found = []
    for axis in range(colours):
        values = base[axes == axis]
        noise = deviation * math.sqrt(2.0 / max(int((values == values[-1]).sum()), 1))
        found.append(max(float(values[-1]), noise))
    return np.array(found)


def _texture(releases: Releases, mean_energy: float, counts: Array) -> Array:
    """Mean energies (Y, G) per class and band, at least a tenth of the pool's."""
    energies = releases.texture(mean_energy) / counts[:, None]
    pooled = np.maximum(counts @ energies / counts.sum(), 0.0)
    raised: Array = np.maximum(energies, 0.1 * pooled)
    return raised


def _clusters(
    releases: Releases,
    means: Array,
    pooled: Array,
    counts: Array,
    design: PriorDesign,
    generator: np.random.Generator,
) -> tuple[Array, Array, Array]:
    """Private k-means per class: offsets (Y, K, R), weights (Y, K), directions (D, R)."""
    rank = min(_SEARCH_DIMENSION, design.dimension)
    values, directions = leading_directions(pooled, rank)
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


def _roots(
    releases: Releases,
    means: Array,
    directions: Array,
    offsets: Array,
    sizes: Array,
    variances: Array,
    frames: Array,
) -> Array:
    """Roots (Y, K, S, S) of each cluster's covariance, which is shrunk towards its class's.

    The class has ``variances`` (Y, S) in the directions ``frames`` (Y, E, S). Rows are divided by
    the root of their sum, so that one clip norm is as tight for every class.
    """
    scales = np.sqrt(variances.sum(axis=1))
    noised, noise = releases.cluster_scatter(
        means, directions, offsets, frames, scales, _CLUSTER_CLIP
    )
    axes = np.eye(variances.shape[1])
    roots = np.empty_like(noised)
    for y, values in enumerate(variances):
        base = np.diag(values) / scales[y] ** 2
        for k, own in enumerate(noised[y]):
            size = sizes[y, k]
            covariance = base + clean_deviation(own / size - base, noise / size, axes)
            squares, vectors = leading_directions(covariance, len(axes))
            floor = _SMALLEST_VARIANCE / scales[y] ** 2
            roots[y, k] = scales[y] * vectors * np.sqrt(np.maximum(squares, floor))
    return roots


def _within_clusters(*estimates: tuple[Array, float], axes: Integers) -> Array:
    """Covariance within clusters, pooled: noised estimates (E, E) weighted by their precision.

    Each comes with the noise of an off-diagonal entry.
    """
    precisions = np.array([1.0 / max(noise, 1e-12) ** 2 for _, noise in estimates])
    mean = np.average([matrix for matrix, _ in estimates], axis=0, weights=precisions)
    return clean_covariance(mean, float(precisions.sum() ** -0.5), _SMALLEST_VARIANCE, axes)

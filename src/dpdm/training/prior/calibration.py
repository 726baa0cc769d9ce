"""The prior's samples are given the moments that were released: post-processing by simulation.

Pixels end at black and white, so a sample that goes beyond is cut off, and loses energy that its
Gaussian had; scatters are of clipped images, which takes some of it before. Both are seen in the
prior's own samples, at no privacy cost: they are looked at as the private images were, and what
their means and variances lack is added to the fields that they are drawn from (the method of
simulated moments, McFadden 1989).
"""

from __future__ import annotations

import numpy as np
import torch

from dpdm.diffusion.images import to_uint8
from dpdm.diffusion.posed import PosedSampler
from dpdm.training.prior.features import PosedFeatures
from dpdm.training.prior.shrinkage import Array
from dpdm.training.prior.statistics import Statistics

_ROUNDS = 3
_MOST_DRAWS, _FEWEST_DRAWS, _VALUES, _FEWEST_A_CLASS = 20_000, 2_000, 2**26, 20
"""Draws a round: as many as have so many values together, within bounds."""

_LEAST, _MOST = 0.5, 2.0
"""Least and most factor of a variance in one round."""


def calibrated(
    sampler: PosedSampler, features: PosedFeatures, statistics: Statistics, seed: int
) -> PosedSampler:
    """``sampler`` with variances and means such that its samples have those of ``statistics``.

    A class is changed in its own directions, by the factors that all classes together need along
    them: only their pooled scatter is known well enough.

    Args:
        sampler: as it was fitted; its amounts of detail are kept apart from this.
        features: those that the private images were looked at by.
        statistics: noised.
        seed: of the draws.
    """
    detail = sampler.detail
    sampler.detail = torch.ones_like(detail)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(_ROUNDS):
        means, scatter = moments(sampler, features, statistics, generator)
        sampler = _moved(sampler, statistics, means, scatter)
    sampler.detail = detail
    return sampler


def moments(
    sampler: PosedSampler,
    features: PosedFeatures,
    statistics: Statistics,
    generator: torch.Generator,
) -> tuple[Array, Array]:
    """Class means (Y, E) of samples and their scatter (E, E) about them."""
    classes, size = len(sampler.class_weights), sampler.means.shape[2]
    draws = min(max(_VALUES // sampler.frame.size, _FEWEST_DRAWS), _MOST_DRAWS)
    counts = (draws * sampler.class_weights.double().numpy()).round().astype(int)
    counts = np.maximum(counts, _FEWEST_A_CLASS)
    means, scatter = np.empty((classes, size)), np.zeros((size, size))
    scales = np.ones(size)
    scales[size - len(features.spread) :] = statistics.pose_weight
    for label, count in enumerate(counts):
        labels = torch.full((int(count),), label, device=sampler.means.device)
        rows = np.concatenate(
            [
                features(to_uint8(part.cpu()), np.full(len(part), label))[:, :size]
                for part in sampler.parts(labels, generator)
            ]
        ).astype(np.float64)
        rows *= scales
        means[label] = rows.mean(axis=0)
        rows -= means[label]
        scatter += float(sampler.class_weights[label]) * (rows.T @ rows) / count
    return means, scatter


def _moved(
    sampler: PosedSampler, statistics: Statistics, means: Array, scatter: Array
) -> PosedSampler:
    """The sampler with its fields moved by what its samples lack."""
    fields = {name: value.double() for name, value in sampler.to_tensors().items()}
    wanted, found = torch.from_numpy(statistics.within), torch.from_numpy(scatter)
    lack = torch.from_numpy(statistics.means - means)
    basis, weights = fields["basis"], fields["weights"]
    factors = _factors(_along(wanted, basis), _along(found, basis))
    fields["variances"] = fields["variances"] * factors
    roots = factors.sqrt()
    own = fields["roots"].shape[-1]
    fields["roots"] = fields["roots"] * roots[:, None, :own, None]
    centres = torch.einsum("yk,yke->ye", weights, fields["means"])
    offsets = fields["means"] - centres[:, None]
    inside = torch.einsum("yke,yer->ykr", offsets, basis) * (roots - 1.0)[:, None]
    offsets = offsets + torch.einsum("ykr,yer->yke", inside, basis)
    fields["means"] = (centres + lack)[:, None] + offsets
    fields["floor"] = fields["floor"] * _factors(wanted.diag(), found.diag())
    return PosedSampler(sampler.image_shape, {n: v.float() for n, v in fields.items()})


def _along(matrix: torch.Tensor, basis: torch.Tensor) -> torch.Tensor:
    """The variances (Y, R) of a covariance (E, E) along directions (Y, E, R)."""
    return torch.einsum("yer,ef,yfr->yr", basis, matrix, basis)


def _factors(wanted: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
    return (wanted / found.clamp(min=1e-9)).clamp(_LEAST, _MOST)

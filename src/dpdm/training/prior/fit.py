"""Fits the mixture of Gaussians to noised statistics of the private images (DESIGN.md, "The
prior").

The order of the releases: poses, where they are modelled; then, of images in their class's pose,
moments (class counts, mean squared norms, pooled mean), texture, class means, pooled within-class
scatter, clusters, scatter per class, scatter per cluster. Only mechanisms read the private images;
the rest is post-processing.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from dpdm.config import Detail
from dpdm.diffusion.dct import DctFrame
from dpdm.diffusion.mixture import Mixture
from dpdm.diffusion.posed import PosedSampler
from dpdm.privacy import PrivateUnits, Session
from dpdm.training.prior.design import LARGEST_RANK, PriorDesign
from dpdm.training.prior.features import PosedFeatures, pose_rows, texture_bands
from dpdm.training.prior.plain import fit_plain
from dpdm.training.prior.releases import Releases
from dpdm.training.prior.shrinkage import Array, shrink_counts, shrink_means
from dpdm.training.prior.statistics import Statistics, collect

_SMALLEST_POSE_SPREAD = 0.01
"""Least standard deviation of a pose parameter, of a range of 2."""

_MOST_DETAIL = {"kept": math.sqrt(3.0), "reduced": 1.0}
"""Where there is texture, the amount of detail of an image is uniform between none and this: some
surfaces are smooth, some rough (docs/trials.md). The mean square of a number between 0 and sqrt(3)
is 1, so that the covariance is the one that was released."""


def fit_prior(
    units: PrivateUnits,
    image_shape: tuple[int, int, int],
    classes: int,
    design: PriorDesign,
    session: Session,
    seed: int,
    augment: float = 0.0,
    detail: Detail = "kept",
) -> Mixture:
    """Releases the statistics of ``design`` and fits the prior.

    Where images are drawn in another way than from the mixture (poses, texture, augmentation), the
    mixture is a plain one fitted to such draws and holds their sampler.

    Args:
        units: images uint8 (N, H, W, C) with labels (N,) in [0, classes), or without any.
        image_shape: (C, H, W).
        classes: number of classes, 0 or 1 for unlabelled data.
        design: what is released and with which noise.
        session: ledger and noise source.
        seed: of the public starting points of the cluster search, and of the plain mixture.
        augment: strength of the public augmentation of samples.
        detail: whether samples keep the energy of fine detail, where there is texture.
    """
    frame, pixels = DctFrame(image_shape, design.dimension), math.prod(image_shape)
    number = max(classes, 1)
    poses, spread = _poses(units, pixels, number, design, session)
    features = PosedFeatures(frame, poses, spread)
    releases = Releases(units.prepare(features), pixels, number, design, session)
    statistics = collect(releases, design, np.random.default_rng(seed))
    fields = _fields(statistics)
    plain = not (design.pose or augment > 0.0 or design.cluster_directions)
    if plain and statistics.texture is None:
        rest = torch.full((pixels - design.dimension,), statistics.rest_variance)
        return Mixture.build(image_shape, **fields, rest=rest)  # type: ignore[arg-type]
    sampler = PosedSampler(
        image_shape,
        {
            **fields,
            "rest": _rest(statistics, frame),
            "poses": _tensor(poses),
            "pose_scale": _tensor(spread / statistics.pose_weight),
            "augment": torch.tensor(float(augment)),
            "detail": torch.tensor(
                [1.0, 1.0] if statistics.texture is None else [0.0, _MOST_DETAIL[detail]]
            ),
            "roots": _tensor(statistics.roots),
        },
    )
    return fit_plain(sampler, seed)


def _poses(
    units: PrivateUnits, pixels: int, classes: int, design: PriorDesign, session: Session
) -> tuple[Array, Array]:
    """Each class's mean pose (Y, Q) and the deviations (Q,) of poses within classes, noised."""
    size = design.pose
    if not size:
        return np.zeros((classes, 0)), np.zeros(0)
    rows = units.prepare(lambda images, _: pose_rows(images, size))
    noised, deviation = Releases(rows, pixels, classes, design, session).poses()
    counts = shrink_counts(noised[:, 0], deviation)
    variances = (deviation / counts) ** 2
    means = shrink_means(
        noised[:, 1 : 1 + size] / counts[:, None], variances, counts, np.arange(size)
    )
    means = np.clip(means, -0.9, 0.9)
    weights = counts / counts.sum()
    within = noised[:, 1 + size :].sum(axis=0) / counts.sum() - weights @ means**2
    # A variance below its own noise is not known; taken for next to nothing, it would make poses
    # outweigh all else in an image's vector.
    resolved = deviation * math.sqrt(classes) / counts.sum()
    return means, np.sqrt(np.clip(within, max(_SMALLEST_POSE_SPREAD**2, resolved), 0.5))


def _rest(statistics: Statistics, frame: DctFrame) -> torch.Tensor:
    """Variances (Y, P - D) of the coefficients that are not modelled."""
    beyond = frame.size - frame.dimension
    rest = np.full((len(statistics.counts), beyond), statistics.rest_variance)
    if statistics.texture is not None:
        for number, band in enumerate(texture_bands(frame)):
            rest[:, band] = statistics.texture[:, number, None] / len(band)
    return _tensor(rest)


def _fields(statistics: Statistics) -> dict[str, torch.Tensor]:
    """The fields of the Gaussians: per class the leading directions of its covariance."""
    dimension = statistics.centres.shape[2]
    rank = min(dimension, LARGEST_RANK)
    others = statistics.variances[:, rank:]
    floors = others.mean(axis=1) if rank < dimension else np.zeros(len(others))
    return {
        "class_weights": _tensor(statistics.counts / statistics.counts.sum()),
        "weights": _tensor(statistics.weights),
        "means": _tensor(statistics.centres),
        "basis": _tensor(statistics.directions[:, :, :rank]),
        "variances": _tensor(statistics.variances[:, :rank]),
        "floor": _tensor(floors),
    }


def _tensor(array: Array) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(torch.float32)

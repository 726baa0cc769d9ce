"""Fits the mixture of Gaussians to noised statistics of the private images (DESIGN.md, "The
prior").

The order of the releases: poses, where they are modelled; then, of images in their class's pose,
moments (class counts, mean squared norms, pooled mean), texture, class means, pooled within-class
scatter, clusters, scatter per class, scatter per cluster. Only mechanisms read the private images;
the rest is post-processing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch

from dpdm.config import Detail
from dpdm.diffusion.dct import DctFrame
from dpdm.diffusion.mixture import Mixture
from dpdm.diffusion.posed import PosedSampler
from dpdm.privacy import PrivateUnits, Session
from dpdm.training.prior.calibration import calibrated
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

_STEEPEST, _HALVINGS = 4.0, 40
"""Power with which variances beyond the modelled frequencies fall at most; photographs have 2."""


def fit_prior(
    units: PrivateUnits,
    image_shape: tuple[int, int, int],
    classes: int,
    design: PriorDesign,
    session: Session,
    seed: int,
    augment: float = 0.0,
    detail: Detail = "kept",
    texture: bool = True,
    calibrate: bool = False,
) -> Mixture:
    """Releases the statistics of ``design`` and fits the prior.

    Where images are drawn in another way than from the mixture (poses, texture, augmentation), the
    mixture is a plain one fitted to such draws and holds their sampler.

    Args:
        units: images uint8 (N, H, W, C) with labels (N,) in [0, classes), or without any.
        image_shape: (C, H, W).
        classes: number of classes, 0 or 1 for unlabelled data.
        design: what is released and with which noise; what it has a choice of was chosen.
        session: ledger and noise source.
        seed: of the public starting points of the cluster search, and of the plain mixture.
        augment: strength of the public augmentation of samples.
        detail: whether samples keep the energy of fine detail, where there is texture.
        texture: whether samples have it, where it is released.
        calibrate: whether samples are given the moments that were released (``calibrated``): where
            classes have clusters, and no poses but brightness are modelled.
    """
    fitted = release_all(units, image_shape, classes, design, session, seed)
    plain = not (design.pose or augment > 0.0 or design.cluster_directions)
    if plain and not (texture and fitted.statistics.texture is not None):
        fields, rest = _fields(fitted.statistics), _rest(fitted.statistics, fitted.frame, texture)
        return Mixture.build(image_shape, **fields, rest=rest[0])  # type: ignore[arg-type]
    sampler = fitted.sampler(augment, detail, texture)
    if calibrate and design.clusters > 1 and design.pose <= 1:
        features = PosedFeatures(fitted.frame, fitted.poses, fitted.spread)
        sampler = calibrated(sampler, features, fitted.statistics, seed)
    return fit_plain(sampler, seed)


@dataclass(frozen=True)
class Fitted:
    """What a design's statistics say, noised: post-processing goes on from here."""

    frame: DctFrame
    statistics: Statistics
    poses: Array
    spread: Array

    def sampler(self, augment: float, detail: Detail, texture: bool) -> PosedSampler:
        """Draws images with poses, texture and augmentation; as for ``fit_prior``."""
        told = texture and self.statistics.texture is not None
        return PosedSampler(
            self.frame.image_shape,
            {
                **_fields(self.statistics),
                "floor": _remainder(self.statistics),
                "rest": _rest(self.statistics, self.frame, texture),
                "poses": _tensor(self.poses),
                "pose_scale": _tensor(self.spread / self.statistics.pose_weight),
                "augment": torch.tensor(float(augment)),
                "detail": torch.tensor([0.0, _MOST_DETAIL[detail]] if told else [1.0, 1.0]),
                "roots": _tensor(self.statistics.roots),
            },
        )


def release_all(
    units: PrivateUnits,
    image_shape: tuple[int, int, int],
    classes: int,
    design: PriorDesign,
    session: Session,
    seed: int,
    whose: str = "prior",
) -> Fitted:
    """Releases the statistics of ``design``, under names that begin with ``whose``."""
    frame, pixels = DctFrame(image_shape, design.dimension), math.prod(image_shape)
    number = max(classes, 1)
    poses, spread = _poses(units, pixels, number, design, session, whose)
    features = PosedFeatures(frame, poses, spread)
    releases = Releases(units.prepare(features), pixels, number, design, session, whose)
    axes = frame.axes[: design.dimension]
    statistics = collect(releases, design, axes, np.random.default_rng(seed))
    return Fitted(frame, statistics, poses, spread)


def _poses(
    units: PrivateUnits,
    pixels: int,
    classes: int,
    design: PriorDesign,
    session: Session,
    whose: str,
) -> tuple[Array, Array]:
    """Each class's mean pose (Y, Q) and the deviations (Q,) of poses within classes, noised.

    Where they are released and none are modelled, brightness is, and is not looked at.
    """
    size = design.pose
    if "poses" not in design.shares:
        return np.zeros((classes, 0)), np.zeros(0)
    rows = units.prepare(lambda images, _: pose_rows(images, max(size, 1)))
    noised, deviation = Releases(rows, pixels, classes, design, session, whose).poses()
    if not size:
        return np.zeros((classes, 0)), np.zeros(0)
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


def _rest(statistics: Statistics, frame: DctFrame, texture: bool) -> torch.Tensor:
    """Variances (Y, P - D) of the coefficients that are not modelled: they have the released
    energy, and where textures are released those of each class and band."""
    shape = _falling(statistics, frame)
    rest = np.tile(shape, (len(statistics.counts), 1))
    if texture and statistics.texture is not None:
        for number, band in enumerate(texture_bands(frame)):
            energies = statistics.texture[:, number, None]
            rest[:, band] = energies * (shape[band] / max(float(shape[band].sum()), 1e-12))
    return _tensor(rest)


def _falling(statistics: Statistics, frame: DctFrame) -> Array:
    """Variances (P - D,) that go on from those of the highest modelled frequencies, by axis of
    colour, and fall with a power of frequency: the one at which they have the released energy.

    A power below 0, where energy is left over, is not believed: all are raised in proportion.
    """
    dimension = frame.dimension
    axes, frequencies = frame.axes[dimension:], frame.frequencies[dimension:]
    if not len(axes):
        return np.zeros(0)
    edge = np.full(frame.image_shape[0], float(statistics.edge.min()))
    edge[: len(statistics.edge)] = statistics.edge
    last = np.full(len(edge), float(frequencies[frequencies > 0.0].min()))
    np.maximum.at(last, frame.axes[:dimension], frame.frequencies[:dimension])
    ratios = np.maximum(frequencies / last[axes], 1.0)

    def variances(power: float) -> Array:
        found: Array = edge[axes] * ratios**-power
        return found

    low, high = 0.0, _STEEPEST
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        more = float(variances(middle).sum()) > statistics.rest_square
        low, high = (middle, high) if more else (low, middle)
    found = variances(low)
    scaled: Array = found * (statistics.rest_square / float(found.sum()))
    return scaled


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


def _remainder(statistics: Statistics) -> torch.Tensor:
    """Variances (Y, E) of a class's coefficients beyond the directions that are kept of it."""
    directions = statistics.directions[:, :, LARGEST_RANK:]
    others = statistics.variances[:, None, LARGEST_RANK:]
    return _tensor((directions**2 * others).sum(axis=2))


def _tensor(array: Array) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(array)).to(torch.float32)

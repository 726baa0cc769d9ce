"""Which statistics a prior releases and how its budget is split: public rules, nothing private.

Everything here follows from declared quantities: the size of the data set, the number of classes,
the number of pixels and the noise. The rules were fitted to DESIGN.md's table (MNIST) and to the
digits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

from dpdm.diffusion.pose import POSE_SIZES
from dpdm.privacy import Event
from dpdm.promise.planning import gaussian

_WITH_CLASS_COVARIANCE = {"moments": 0.05, "means": 0.20, "scatter": 0.25, "class scatter": 0.50}
_WITH_CLUSTERS = {
    "moments": 0.05,
    "means": 0.08,
    "scatter": 0.25,
    "cluster search": 0.10,
    "clusters": 0.10,
    "class scatter": 0.42,
}
_CLUSTER_SCATTER = 0.2
"""Share of the scatter per cluster, where it is released."""

_POSES, _TEXTURE = 0.03, 0.02
"""Shares where poses and texture are released; the others shrink in proportion."""

CLUSTER_STEPS = 3
"""Lloyd steps that share the budget of the cluster search; one more releases the clusters."""

LARGEST_RANK = 128
"""Directions kept per class; the others share one variance."""

_PILOT, _LARGEST_PILOT, _VOTES = 0.03, 0.08, 0.02
"""Shares of a pilot, at least and at most, and of the votes that choose between them."""

_LARGEST_DIMENSION = 500
_LARGEST_CLUSTERS = 16
_RESOLUTION_A_DIRECTION, _FEWEST_DIRECTIONS = 8, 16
_MOST_CLUSTER_DIRECTIONS, _IMAGES_A_DIRECTION = 60, 5
_SCATTER_RESOLUTION = 40
"""Images per class over the noise multiplier below which the pooled covariance is given less."""
_POSE_RESOLUTION = 150
"""Images per class over the noise multiplier below which it is not known where shapes stand."""


@dataclass(frozen=True)
class Candidate:
    """What may be said of a kind of image: ``prior.normalise``, ``prior.augment``,
    ``prior.texture``."""

    normalise: str
    augment: float
    texture: bool

    def in_words(self) -> str:
        """The settings that say more than nothing, without their section."""
        said = [f"normalise={self.normalise}"]
        said += [f"augment={self.augment:g}"] if self.augment else []
        return " ".join([*said, "texture=true"] if self.texture else said)


CANDIDATES = (
    Candidate("none", 0.0, False),
    Candidate("none", 0.0, True),
    Candidate("brightness", 0.0, True),
    Candidate("affine", 1.0, False),
    Candidate("affine", 1.0, True),
)
"""What ``prior.normalise=auto`` chooses from, what says least first."""


@dataclass(frozen=True)
class Choice:
    """How a kind of image is chosen by noised votes, and what is released then.

    Attributes:
        pilots: by ``normalise``, a prior with a small share, whose samples teach a judge.
        votes: noise multiplier of the votes: which judges are right of an image.
        finals: by ``normalise``, the prior with what is left: the same events, whichever it is.
    """

    pilots: dict[str, PriorDesign]
    votes: float
    finals: dict[str, PriorDesign]


@dataclass(frozen=True)
class PriorDesign:
    """What is released, with which noise.

    Attributes:
        dimension: number D of low DCT frequencies that are modelled.
        clusters: Gaussians per class, K.
        noise_multiplier: of one Gaussian mechanism that costs what all releases together cost.
        shares: share of 1/noise_multiplier**2 per kind of statistic; they add up to 1.
        pose: number Q of pose parameters that are modelled with the coefficients.
        directions: number R of directions in which each class has a covariance of its own; beyond
            them, and in all of them where it is 0, classes share the pooled one.
        cluster_directions: number S of a class's leading directions in which each of its clusters
            has a covariance of its own; beyond them clusters share the class's.
        choice: what is released before, to choose how images are normalised; None: it is known.
    """

    dimension: int
    clusters: int
    noise_multiplier: float
    shares: dict[str, float]
    pose: int = 0
    directions: int = 0
    cluster_directions: int = 0
    choice: Choice | None = None

    def noise_of(self, statistic: str) -> float:
        """Noise multiplier of one release of a statistic."""
        share = self.shares[statistic]
        if statistic == "cluster search":
            share /= CLUSTER_STEPS
        return self.noise_multiplier / math.sqrt(share)

    def events(self) -> list[tuple[Event, int]]:
        """The events of the whole prior with their counts, before anything runs."""
        if not self.noise_multiplier:
            return []
        found = [
            (gaussian(self.noise_of(name)), CLUSTER_STEPS if name == "cluster search" else 1)
            for name in self.shares
        ]
        if self.choice is not None:
            found += [event for pilot in self.choice.pilots.values() for event in pilot.events()]
            found.append((gaussian(self.choice.votes), 1))
        return found


def design_prior(
    *,
    public_size: int,
    classes: int,
    pixels: int,
    noise_multiplier: float,
    dimension: int | None = None,
    clusters: int | None = None,
    cluster_directions: int | None = None,
    pose: int = 0,
    texture: bool = False,
    poses: bool = False,
) -> PriorDesign:
    """The public rule.

    Images per class over the noise multiplier, n / sigma, is what a class statistic can resolve. At
    n / sigma of 350, 1,600 and 12,500 (MNIST, epsilon 0.2, 1 and 10) DESIGN.md's best settings were
    D = 150, 400, 500 and K = 1, 8, 16. Where K is 1, the covariance of a class is released in n /
    sigma / 8 leading directions of the pooled one: its noise is then, in Frobenius norm, about an
    eighth of its clip norm squared. Where that leaves fewer than 16, the budget goes to the means
    and the pooled one (docs/trials.md, digits at epsilon 1), nearly half each. Where n / sigma is
    below 40, that one, D values squared, is mostly noise: its share falls in proportion, to the
    means and the moments (docs/trials.md, few images). Where K is more, each cluster has a
    covariance of its own in as many of its class's leading directions as the same bound allows for
    a cluster, at most 60 and a fifth of its images; fewer than 16 are none. Where n / sigma is
    below 150, poses but for brightness are not modelled: noise would move images (docs/trials.md).

    Args:
        public_size: declared number of units.
        classes: number of classes, 1 for unlabelled data.
        pixels: channels x height x width.
        noise_multiplier: of the whole prior; 0 for a run without privacy.
        dimension: fixes D, at most ``pixels``.
        clusters: fixes K.
        cluster_directions: fixes S.
        pose: number of pose parameters Q.
        texture: whether classes differ in what lies beyond the D frequencies.
        poses: whether poses are released even where none are modelled.
    """
    resolution = public_size / classes / max(noise_multiplier, 1e-3)
    if pose > 1 and resolution < _POSE_RESOLUTION:
        pose = 0
    chosen_dimension = dimension or int(
        min(_LARGEST_DIMENSION, max(24, round(8 * math.sqrt(resolution))))
    )
    chosen_dimension = min(chosen_dimension, pixels)
    chosen_clusters = clusters or int(min(_LARGEST_CLUSTERS, max(1, resolution // 200)))
    if clusters is None and public_size / classes < 100 * chosen_clusters:
        chosen_clusters = max(1, int(public_size / classes / 100))
    size = chosen_dimension + pose
    directions = min(size, round(resolution / _RESOLUTION_A_DIRECTION))
    if chosen_clusters > 1:
        shares, directions = _WITH_CLUSTERS, size
    elif directions >= min(_FEWEST_DIRECTIONS, size):
        shares = _WITH_CLASS_COVARIANCE
    else:
        shares, directions = _without_class_covariance(resolution), 0
    extra = {"poses": _POSES} if pose or poses else {}
    if texture and chosen_dimension < pixels:
        extra["texture"] = _TEXTURE
    own = 0
    if chosen_clusters > 1:
        images = public_size / classes / chosen_clusters
        found = _cluster_directions(images, resolution / chosen_clusters)
        own = min(size, LARGEST_RANK, found if cluster_directions is None else cluster_directions)
    if own:
        extra["cluster scatter"] = _CLUSTER_SCATTER
    left = 1.0 - sum(extra.values())
    scaled = {name: left * share for name, share in shares.items()}
    return PriorDesign(
        chosen_dimension,
        chosen_clusters,
        noise_multiplier,
        {**scaled, **extra},
        pose,
        directions,
        own,
    )


def design_choice(*, noise_multiplier: float, **about: Any) -> PriorDesign:
    """The prior of ``prior.normalise=auto``, of as much noise as one mechanism of
    ``noise_multiplier``; ``about`` is for ``design_prior``.

    Each normalisation has a pilot: the whole prior with a share of 0.03, or with as much more, up
    to 0.08, as poses need to be told (150 images a class over its noise multiplier). Where that is
    not enough, nothing is chosen and images are taken as they are. A choice of what to release next
    must not change what it costs: poses and texture are released whatever was chosen.
    """
    images = about["public_size"] / about["classes"]
    needed = (_POSE_RESOLUTION * max(noise_multiplier, 1e-3) / images) ** 2
    if about["classes"] < 2 or needed > _LARGEST_PILOT:
        return design_prior(noise_multiplier=noise_multiplier, **about)
    share = max(_PILOT, 1.001 * needed)
    kinds = dict.fromkeys(candidate.normalise for candidate in CANDIDATES)

    def designs(share: float) -> dict[str, PriorDesign]:
        noise = noise_multiplier / math.sqrt(share)
        return {
            kind: design_prior(
                noise_multiplier=noise, pose=POSE_SIZES[kind], texture=True, poses=True, **about
            )
            for kind in kinds
        }

    finals = designs(1.0 - len(kinds) * share - _VOTES)
    if len({tuple(final.events()) for final in finals.values()}) > 1:
        return design_prior(noise_multiplier=noise_multiplier, **about)
    choice = Choice(designs(share), noise_multiplier / math.sqrt(_VOTES), finals)
    return replace(finals["none"], choice=choice)


def _without_class_covariance(resolution: float) -> dict[str, float]:
    """Shares where only the pooled covariance is released, and that as far as it is told at all."""
    told = min(1.0, resolution / _SCATTER_RESOLUTION)
    scatter, moments = 0.5 * told, 0.05 + 0.10 * (1.0 - told)
    return {"moments": moments, "means": 1.0 - moments - scatter, "scatter": scatter}


def _cluster_directions(images: float, resolution: float) -> int:
    """S, from images per cluster, and these over the noise multiplier."""
    found = min(resolution / _RESOLUTION_A_DIRECTION, images / _IMAGES_A_DIRECTION)
    return min(_MOST_CLUSTER_DIRECTIONS, round(found)) if found >= _FEWEST_DIRECTIONS else 0

"""A plain mixture fitted to a prior's own draws, where those have no density in closed form.

With poses and augmentation a prior can be drawn from, but its E[x0 | x] is unknown. A ``Mixture``
fitted to draws gives one again, as a base for a network: post-processing, so it costs no privacy
and may be as fine as one likes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dpdm.diffusion.dct import DctFrame
from dpdm.diffusion.mixture import LARGEST, Mixture
from dpdm.diffusion.posed import PosedSampler

_DRAWS, _DRAWS_PER_CLASS = 60_000, 4_000
_COMPONENTS, _DIMENSION, _RANK = LARGEST
_DRAWS_PER_COMPONENT = 60
_SEARCH_DIMENSION, _LLOYD_STEPS = 16, 8
_SMALLEST_VARIANCE = 1e-6
"""Draws of a class that noise has moved beyond black and white are all alike."""


def fit_plain(sampler: PosedSampler, seed: int) -> Mixture:
    """A mixture fitted to draws of ``sampler``, which it then holds and draws from.

    Per class, k-means in the leading directions of its draws, then the covariance within clusters:
    the noiseless form of the prior's own fit. ``seed`` fixes the draws.
    """
    shape, classes = sampler.image_shape, len(sampler.class_weights)
    frame = DctFrame(shape, min(_DIMENSION, math.prod(shape)))
    count = min(_DRAWS_PER_CLASS, max(_DRAWS // classes, _DRAWS_PER_COMPONENT))
    generator = torch.Generator().manual_seed(seed)
    parts: dict[str, list[Tensor]] = {}
    rest = torch.zeros(frame.size - frame.dimension, dtype=torch.float64)
    for label in range(classes):
        labels = torch.full((count,), label)
        weight, heads = sampler.class_weights[label].item() / count, []
        for images in sampler.parts(labels, generator):
            z = frame.to_coefficients(images.cpu()).double()
            heads.append(z[:, : frame.dimension].clone())
            rest += weight * z[:, frame.dimension :].square().sum(dim=0)
        for name, value in _fit_class(torch.cat(heads), generator).items():
            parts.setdefault(name, []).append(value)
    fields = {name: torch.stack(values).float() for name, values in parts.items()}
    fields |= {"class_weights": sampler.class_weights.cpu(), "rest": rest.float()}
    mixture = Mixture.build(shape, **fields)  # type: ignore[arg-type]
    mixture.sampler = sampler
    return mixture


def _fit_class(z: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """Fields of one class, without its axis, from coefficients (n, D)."""
    centre = z.mean(dim=0)
    offsets = z - centre
    components = min(_COMPONENTS, max(1, len(z) // _DRAWS_PER_COMPONENT))
    leading = torch.linalg.eigh(offsets.T @ offsets / len(z))[1][:, -_SEARCH_DIMENSION:]
    nearest = _clusters(offsets @ leading, components, generator)
    ones = torch.nn.functional.one_hot(nearest, components).double()
    sizes = ones.sum(dim=0)
    means = (ones.T @ offsets) / sizes.clamp(min=1.0).unsqueeze(1)
    within = offsets - means[nearest]
    values, vectors = torch.linalg.eigh(within.T @ within / len(z))
    rank = min(_RANK, z.shape[1])
    values = values.clamp(min=_SMALLEST_VARIANCE)
    floor = values[: z.shape[1] - rank]
    return {
        "weights": sizes / len(z),
        "means": centre + means,
        "basis": vectors[:, -rank:].flip(1),
        "variances": values[-rank:].flip(0),
        "floor": floor.mean() if len(floor) else floor.sum(),
    }


def _clusters(points: Tensor, components: int, generator: torch.Generator) -> Tensor:
    """The nearest of ``components`` centres for each of ``points`` (n, d), after Lloyd's steps."""
    centres = points[torch.randperm(len(points), generator=generator)[:components]].clone()
    for _ in range(_LLOYD_STEPS):
        nearest = torch.cdist(points, centres).argmin(dim=1)
        ones = torch.nn.functional.one_hot(nearest, components).to(points)
        sizes = ones.sum(dim=0)
        found = (ones.T @ points) / sizes.clamp(min=1.0).unsqueeze(1)
        centres = torch.where((sizes > 0).unsqueeze(1), found, centres)
    return torch.cdist(points, centres).argmin(dim=1)

"""How a released model draws: a few images on their way from noise, for people to look at."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from dpdm.diffusion.denoiser import Denoiser
from dpdm.diffusion.images import to_uint8
from dpdm.diffusion.samplers import karras_sigmas
from dpdm.diffusion.trajectory import Trajectory
from dpdm.release.model import Images, Model

# Above 4 an image is lost in its noise, below 0.2 little noise is left to see.
_FIRST, _LAST = 4.0, 0.2


def draw_trajectory(
    model: Model,
    labels: str | Sequence[int],
    count: int,
    *,
    frames: int = 8,
    most_steps: int = 100,
    seed: int | None = None,
) -> Trajectory:
    """Draws ``count`` images with the release's own sampler settings and keeps some of its steps.

    Settings of more than ``most_steps`` steps are shortened to that. A prior alone, which is
    otherwise drawn from directly, takes these steps with its posterior mean as denoiser.
    """
    settings = model.config.sampling
    steps = min(settings.steps, most_steps)
    levels = karras_sigmas(steps, settings.sigma_min, settings.sigma_max, settings.rho).tolist()
    kept = _spread(levels, frames)
    seen: list[Images] = []

    def watch(step: int, steps: int, x: Tensor, denoised: Tensor) -> None:
        if step in kept:
            seen.append(to_uint8(x / math.sqrt(1.0 + levels[step] ** 2)))

    _, drawn = model.sample(
        count,
        labels=labels,
        sampler=settings.sampler,
        steps=steps,
        seed=seed,
        batch_size=count,
        relabel=False,
        watch=watch,
    )
    return Trajectory(
        frames=np.stack(seen),
        sigmas=tuple(levels[step] for step in kept),
        labels=drawn,
        sampler=settings.sampler,
        steps=steps,
        shortcut=not isinstance(model.denoiser, Denoiser),
        from_prior=settings.start == "prior",
    )


def _spread(levels: Sequence[float], count: int) -> list[int]:
    """Steps (from 1) after which the noise is that of the first step, of ``count`` - 2 levels
    between 4 and 0.2 in equal ratios, or 0; fewer where the sampler takes fewer."""
    last = len(levels) - 1
    between = torch.logspace(math.log10(_FIRST), math.log10(_LAST), max(0, count - 2)).tolist()
    steps = range(1, last)
    nearest = {
        min(steps, key=lambda step: abs(math.log(levels[step] / level)))
        for level in between
        if steps
    }
    return sorted({1, *nearest, last})

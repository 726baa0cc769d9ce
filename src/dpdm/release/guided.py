"""Samples that are moved to where the labeller finds their label: classifier guidance.

A labeller trained with DP-SGD knows more of what tells classes apart than samples show. Classifier
guidance (Dhariwal and Nichol 2021, arXiv 2105.05233, Algorithm 1) adds the gradient of
log p(label | image) to each step of sampling; here samples are moved along it once they are drawn,
which needs no labeller of noisy images and goes for a prior alone too. Post-processing: labeller
and samples are released.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from dpdm.diffusion.images import to_model_space, to_uint8
from dpdm.lanes import Lanes
from dpdm.networks import Labeller
from dpdm.networks.labeller import BATCH

Images = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]
Progress = Callable[[int, int], None]

_LONGEST = 0.25
"""A step's part of the way."""

SMOOTHING = 0.004
"""Moduli of a grey level and less have hardly a gradient: it would be one of rounding."""


def guided(
    labeller: Labeller,
    images: Images,
    labels: Labels,
    *,
    scale: float,
    temperature: float,
    device: torch.device,
    progress: Progress | None = None,
) -> Images:
    """Images (n, H, W, C) moved up log p(label | image), by ``scale`` times its gradient in all.

    In model space, in steps of ``scale`` / ceil(4 ``scale``), each of the gradient where the last
    one led; pixels end at black and white. A batch of ``BATCH`` at a time, on a CPU each core one.

    Args:
        labeller: gives the logits.
        images: uint8.
        labels: (n,), what each is to show.
        scale: 0 leaves images as they are.
        temperature: divides the logits.
        device: that computes.
        progress: told how many images are done, of how many.
    """
    placed = copy.deepcopy(labeller).to(device)
    steps = math.ceil(scale / _LONGEST)
    cores = torch.get_num_threads() if device.type == "cpu" else 1

    def one(start: int) -> Images:
        chosen = slice(start, start + BATCH)
        x = to_model_space(images[chosen], device)
        wanted = torch.from_numpy(labels[chosen]).to(device)
        for _ in range(steps):
            x = (x + scale / steps * _gradient(placed, x, wanted, temperature)).clamp(-1.0, 1.0)
        return to_uint8(x)

    moved = np.empty_like(images)
    with Lanes(cores) as lanes:
        for first in range(0, len(images), cores * BATCH):  # who interrupts waits for these alone
            stop = min(first + cores * BATCH, len(images))
            moved[first:stop] = np.concatenate(list(lanes.map(one, range(first, stop, BATCH))))
            if progress is not None:
                progress(stop, len(images))
    return moved


def _gradient(labeller: Labeller, x: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Of log p(label | image) in each image (N, C, H, W)."""
    with torch.enable_grad():
        x = x.detach().requires_grad_()
        features = labeller.scattering(x, smoothing=SMOOTHING)
        logits = features @ labeller.weight[:-1] + labeller.weight[-1]
        loss = F.cross_entropy(logits / temperature, labels, reduction="sum")
        return -torch.autograd.grad(loss, x)[0]

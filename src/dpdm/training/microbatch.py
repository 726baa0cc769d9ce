"""How many units pass through the network at once: ``training.microbatch``, or what memory allows.

Only public facts enter: settings, shapes, the device. It changes speed and rounding, no promise.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from dpdm.config import Config
from dpdm.data import PublicFacts
from dpdm.diffusion.denoiser import Denoiser
from dpdm.diffusion.objective import denoising_loss
from dpdm.diffusion.views import draw_views
from dpdm.memory import saved_for_backward

_CPU_BYTES = 1.25 * 2**30
"""On the CPU more does not run faster: the paper's network passes 57, 57, 53 and 36 images/s with
2, 4, 8 and 16 units of 32 views (0.6 to 4.6 GB of activations; 2 cores)."""

_CUDA_SHARE = 0.7
"""Of the free memory, for what the forward pass keeps and a gradient for each unit. The backward
pass adds to it, but the rules keep half of what is counted: the paper's network took 16 GiB for 544
units of 4 views, where at least 16 were counted (H100)."""


_FEW_PASSES = 16
_MULTIPLE = 16
"""Units divide into equal calls of kernels (``gradients/rules_convolution.py``)."""


def usable_lanes(config: Config, device: torch.device) -> int:
    """How many lanes a training has: one for each thread of a CPU.

    Dropout draws from torch's one global generator, so that with it there is a single lane.
    """
    if device.type != "cpu" or config.network.dropout:
        return 1
    return torch.get_num_threads()


def resolve_microbatch(
    config: Config, denoiser: Denoiser, facts: PublicFacts, device: torch.device, lanes: int = 1
) -> int:
    """Units per pass, of which there are ``lanes`` at a time: the setting is for all of them
    together, ``auto`` is what memory allows.

    ``auto`` passes one unit of noise and adds up what the forward pass keeps for the backward one;
    a unit's gradient counts too. Where a step is a few passes, they are sized so that its Poisson
    sample, mean plus two standard deviations, fills them: a pass is padded to its full size
    whatever the number of units, so that no unit changes the shapes that others are computed in.
    """
    setting = config.training.microbatch
    if setting != "auto":
        return math.ceil(setting / lanes)
    per_unit = _kept_bytes(denoiser, random_views(config, denoiser, facts, 1, device))
    per_unit += sum(4 * p.numel() for p in denoiser.parameters())
    allowed = _CPU_BYTES
    if device.type == "cuda":
        torch.cuda.empty_cache()  # what an earlier phase held counts as free
        allowed = _CUDA_SHARE * torch.cuda.mem_get_info(device)[0]
    fitting = max(1, int(allowed / per_unit / lanes))
    return _filled(fitting, config.training.batch_size, facts.public_size, lanes)


def _filled(fitting: int, batch: int, size: int, lanes: int) -> int:
    passes = math.ceil(batch / fitting / lanes) * lanes
    if passes > _FEW_PASSES * lanes:
        return fitting
    most = min(batch + 2 * math.sqrt(batch * (1 - batch / size)), size)
    units = math.ceil(most / passes)
    return min(math.ceil(units / _MULTIPLE) * _MULTIPLE, size) if units > _MULTIPLE else units


def random_views(
    config: Config, denoiser: Denoiser, facts: PublicFacts, units: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Images, sigma, noise and labels of the views of some units of noise, for trials."""
    generator = torch.Generator().manual_seed(0)
    count, shape = config.views.count, facts.image_shape
    sigma, noise = draw_views(
        config.views.law, denoiser.config, units, count, shape, generator=generator, device=device
    )
    images = torch.rand((units * count, *shape), generator=generator).to(device)
    labels = None
    if facts.classes:
        labels = torch.zeros(units * count, dtype=torch.int64, device=device)
    return images, sigma, noise, labels


def _kept_bytes(denoiser: Denoiser, views: tuple[Tensor | None, ...]) -> int:
    with saved_for_backward() as saved:
        loss = denoising_loss(denoiser, *views)  # type: ignore[arg-type]
    del loss
    return sum(saved.values())

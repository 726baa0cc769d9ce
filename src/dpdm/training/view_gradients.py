"""What a microbatch of units gives a step: losses and gradients over views drawn by its place."""

from __future__ import annotations

import torch
from torch import Tensor

from dpdm.config import Config
from dpdm.diffusion.denoiser import Denoiser
from dpdm.diffusion.draws import uniform
from dpdm.diffusion.images import to_model_space
from dpdm.diffusion.views import draw_views
from dpdm.privacy import Gradients
from dpdm.training.differentiation import Differentiation
from dpdm.training.draws import keyed_generator

_PREFIX = "network."


class ViewGradients:
    """A callable that gives (U,) losses and per-unit gradients, by the network's names.

    The same call gives the same numbers in whichever thread or process it is made: a copy made with
    pickle can stand in.

    Args:
        config: views, dropped labels.
        denoiser: whose network is differentiated, as its parameters are at the time of a call.
        seed: of the views; secret where the step's noise is.
    """

    def __init__(self, config: Config, denoiser: Denoiser, seed: int) -> None:
        self.config, self.denoiser, self.seed = config, denoiser, seed
        self.images_per_unit = images_per_unit(config)
        self._differentiate = Differentiation(denoiser, config.views.count)

    def __call__(
        self, step: int, place: object, images: Tensor, labels: Tensor | None
    ) -> tuple[Tensor, Gradients]:
        """``images`` (U * M, H, W, C) and ``labels`` (U * M,), M images of each unit; ``place``
        tells microbatches of a step apart."""
        generator = keyed_generator(self.seed, f"views from unit {place} on", step, images.device)
        units = len(images) // self.images_per_unit
        views = _views(self.config, self.denoiser, images, labels, units, generator)
        losses, gradients = self._differentiate(*views)
        return losses, {name.removeprefix(_PREFIX): g for name, g in gradients.items()}


def images_per_unit(config: Config) -> int:
    """Images of a unit that share its views in a step."""
    if config.privacy.unit == "image":
        return 1
    return config.privacy.max_images_per_unit or config.views.count


def drop_labels(labels: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Labels (N,) with a share of them replaced by -1, for classifier-free guidance."""
    dropped = uniform(labels.shape, generator=generator, device=labels.device) < share
    return labels.masked_fill(dropped, -1)


def shape_of(images: Tensor) -> tuple[int, int, int]:
    """(C, H, W) of images (N, C, H, W)."""
    channels, height, width = images.shape[1:]
    return channels, height, width


def _views(
    config: Config,
    denoiser: Denoiser,
    images: Tensor,
    labels: Tensor | None,
    units: int,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Images, sigma, noise and labels of the views of some units, a unit's views adjacent.

    The views of a unit take its images (U * M, H, W, C) in turn.
    """
    count, each = config.views.count, len(images) // units
    device = images.device
    turns = torch.arange(units)[:, None] * each + torch.arange(count) % each
    index = turns.flatten().to(device)
    chosen = to_model_space(images, device)[index]
    sigma, noise = draw_views(
        config.views.law,
        denoiser.config,
        units,
        count,
        shape_of(chosen),
        generator=generator,
        device=device,
    )
    if labels is not None:
        labels = drop_labels(labels[index], config.network.label_dropout, generator)
    return chosen, sigma, noise, labels

"""From settings to a denoiser: network, DM config and base put together in one place."""

from __future__ import annotations

import torch
from torch import nn

from dpdm.config import Config
from dpdm.diffusion.configs import DMConfig, dm_config
from dpdm.diffusion.denoiser import (
    Base,
    BaseDenoiser,
    Denoiser,
    InformedBase,
    PriorBase,
    SkipBase,
)
from dpdm.diffusion.mixture import Mixture
from dpdm.networks import UNet

_PRIOR_WIDTH = 0.05
"""White noise (of images in [-1, 1]) added to the prior where it is a base: room for what the
statistics missed, so that no direction has variance zero. On digits: loss 0.629 to 0.614."""


def has_network(config: Config) -> bool:
    """Whether anything is trained, or was before; a release of the prior alone has no network."""
    trained = config.training.steps > 0 or config.warmup.steps > 0
    return trained or config.network.init is not None


def diffusion_of(config: Config) -> DMConfig:
    """The DM config of the settings, over the noise levels that are trained on."""
    return dm_config(config.diffusion.config, config.diffusion.sigma_range)


def build_base(kind: str, config: Config, mixture: Mixture | None) -> Base:
    """A base: c_skip x (``skip``, and wherever there is no prior), the ``prior``, or both
    (``informed``)."""
    diffusion = diffusion_of(config)
    if mixture is None or kind == "skip":
        return SkipBase(diffusion)
    broad = mixture.broadened(_PRIOR_WIDTH)
    return (InformedBase if kind == "informed" else PriorBase)(broad, diffusion)


def build_prior_denoiser(config: Config, mixture: Mixture | None) -> BaseDenoiser:
    """The denoiser of a release of the prior alone, whatever a network would correct."""
    return BaseDenoiser(build_base("prior", config, mixture))


def build_denoiser(
    config: Config,
    image_shape: tuple[int, int, int],
    classes: int,
    mixture: Mixture | None,
    generator: torch.Generator | None = None,
) -> nn.Module:
    """A denoiser with fresh weights.

    Args:
        config: the run's settings.
        image_shape: (C, H, W).
        classes: number of classes, 0 for unlabelled data.
        mixture: the prior, where the run has one.
        generator: of the initial weights.

    Raises:
        RequestError: network settings that do not fit the image, named by key.
    """
    if not has_network(config):
        return build_prior_denoiser(config, mixture)
    base = build_base(config.base, config, mixture)
    channels, height, width = image_shape
    network = UNet(
        image_size=(height, width),
        in_channels=channels * base.input_multiple,
        out_channels=channels,
        base_channels=config.network.base_channels,
        multipliers=config.network.multipliers,
        blocks=config.network.blocks,
        attention=config.network.attention,
        classes=classes,
        dropout=config.network.dropout,
        patch=config.network.patch,
        noise_frequencies=config.network.noise_frequencies,
        generator=generator,
    )
    return Denoiser(network, diffusion_of(config), base)


def stand_in_prior(
    config: Config, image_shape: tuple[int, int, int], classes: int
) -> Mixture | None:
    """For a denoiser of the run's size and cost before the prior is fitted; None without one."""
    return Mixture.stand_in(image_shape, max(classes, 1)) if config.prior.enabled else None

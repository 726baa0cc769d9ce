"""The denoiser: a base in closed form plus what a network adds to it.

    D(x; sigma, y) = base(x, sigma, y) + c_out(sigma) F(inputs; c_noise(sigma), y)

The paper's base is c_skip x with inputs c_in x (Karras et al. 2022, eq. 7). The others know a
prior's posterior mean, and with it what statistics say of class and layout: it is the base itself,
so that D is that mean exactly where F is zero, or it stands beside x, as c_skip weighs them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from dpdm.diffusion.configs import DMConfig
from dpdm.diffusion.mixture import Mixture


@dataclass(frozen=True)
class BaseOutput:
    """``mean`` (N, C, H, W), the estimate of x0; ``inputs`` (N, kC, H, W), for the network."""

    mean: Tensor
    inputs: Tensor


class Base(Protocol):
    """A callable from (x (N, C, H, W), sigma (N,), labels (N,) or None) to a BaseOutput.

    ``input_multiple`` k is the number of planes the network sees for each channel.
    """

    input_multiple: int

    def __call__(self, x: Tensor, sigma: Tensor, labels: Tensor | None) -> BaseOutput: ...


def _per_image(values: Tensor) -> Tensor:
    return values.reshape(-1, 1, 1, 1)


class SkipBase(nn.Module):
    """The paper's base: mean c_skip x, inputs c_in x."""

    input_multiple = 1

    def __init__(self, config: DMConfig) -> None:
        super().__init__()
        self.config = config

    def forward(self, x: Tensor, sigma: Tensor, labels: Tensor | None = None) -> BaseOutput:
        c = self.config.preconditioning(sigma)
        return BaseOutput(mean=_per_image(c.c_skip) * x, inputs=_per_image(c.c_in) * x)


class _OfPrior(nn.Module):
    def __init__(self, mixture: Mixture, config: DMConfig) -> None:
        super().__init__()
        self.mixture = mixture
        self.config = config


class InformedBase(_OfPrior):
    """c_skip x + (1 - c_skip) m of a prior's posterior mean m; inputs c_in x and m.

    The paper's base with m in place of zero: where noise is high the base is the prior's estimate,
    where it is low it is x, which then says more than any statistic. No parameters; evaluated
    without gradients.
    """

    input_multiple = 2

    @torch.no_grad()
    def forward(self, x: Tensor, sigma: Tensor, labels: Tensor | None = None) -> BaseOutput:
        c = self.config.preconditioning(sigma)
        mean = self.mixture.posterior_mean(x, sigma, labels)
        inputs = torch.cat([_per_image(c.c_in) * x, mean], dim=1)
        return BaseOutput(mean=mean + _per_image(c.c_skip) * (x - mean), inputs=inputs)


class PriorBase(_OfPrior):
    """A prior's posterior mean; inputs c_in x, that mean, and the noise found, (x - mean) / sigma.

    No parameters; evaluated without gradients. Where a prior is narrower than the images, the noise
    found and the weighted loss outgrow all bounds as sigma falls: see ``Mixture.broadened``.
    """

    input_multiple = 3

    @torch.no_grad()
    def forward(self, x: Tensor, sigma: Tensor, labels: Tensor | None = None) -> BaseOutput:
        mean = self.mixture.posterior_mean(x, sigma, labels)
        c_in = _per_image(self.config.preconditioning(sigma).c_in)
        found = (x - mean) / _per_image(sigma)
        return BaseOutput(mean=mean, inputs=torch.cat([c_in * x, mean, found], dim=1))


class Denoiser(nn.Module):
    """D(x; sigma, y) of a DM config, a base and a network, the only part with parameters.

    ``network(inputs (N, kC, H, W), c_noise (N,), labels (N,) or None) -> (N, C, H, W)``. It alone
    runs in ``precision``, under autocast; None for the precision of its weights.
    """

    precision: torch.dtype | None = None

    def __init__(self, network: nn.Module, config: DMConfig, base: Base) -> None:
        super().__init__()
        self.network = network
        self.config = config
        self.base = base

    def forward(self, x: Tensor, sigma: Tensor, labels: Tensor | None = None) -> Tensor:
        """The estimate of x0 (N, C, H, W); sigma (N,) is positive, labels (N,) or None."""
        with torch.no_grad():
            base = self.base(x, sigma, labels)
        return self.corrected(base, sigma, labels)

    def corrected(self, base: BaseOutput, sigma: Tensor, labels: Tensor | None = None) -> Tensor:
        """The estimate from a base output that is already at hand: the part with a gradient."""
        c = self.config.preconditioning(sigma)
        with torch.autocast(base.inputs.device.type, self.precision, self.precision is not None):
            correction = self.network(base.inputs, c.c_noise, labels)
        estimate: Tensor = base.mean + _per_image(c.c_out) * correction.to(base.mean.dtype)
        return estimate


class BaseDenoiser(nn.Module):
    """The base alone as a denoiser, for releases of the prior without a network."""

    def __init__(self, base: Base) -> None:
        super().__init__()
        self.base = base

    def forward(self, x: Tensor, sigma: Tensor, labels: Tensor | None = None) -> Tensor:
        """The base's estimate of x0 (N, C, H, W)."""
        with torch.no_grad():
            return self.base(x, sigma, labels).mean

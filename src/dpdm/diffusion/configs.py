"""The four DM configs (D, p, lambda): preconditioning, noise distribution, loss weight.

Dockhorn et al., TMLR 2023 (arXiv 2210.09929), the table of four DM configs; the columns VP, VE and
EDM are those of Karras et al. 2022 (arXiv 2206.00364), Table 1. With F the network,

    D(x; sigma) = c_skip x + c_out F(c_in x; c_noise).

            vp                 ve             v                       edm (s = sigma_data)
    c_skip  1                  1              1/(sigma^2+1)           s^2/(sigma^2+s^2)
    c_out   -sigma             sigma          sigma/sqrt(sigma^2+1)   sigma s/sqrt(sigma^2+s^2)
    c_in    1/sqrt(sigma^2+1)  1              1/sqrt(sigma^2+1)       1/sqrt(sigma^2+s^2)
    c_noise 999 t(sigma)       ln(sigma/2)    2/pi arctan(sigma)      ln(sigma)/4
    p       t uniform          ln sigma unif. arctan(sigma) uniform   ln sigma normal
    lambda  1/sigma^2          1/sigma^2      (sigma^2+1)/sigma^2     (sigma^2+s^2)/(sigma s)^2

In all four lambda c_out^2 = 1: the loss weighs the network's own error alike at every noise level.
"""

from __future__ import annotations

import difflib
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import torch
from torch import Tensor

from dpdm.errors import RequestError


@dataclass(frozen=True)
class Preconditioning:
    """The four coefficients at given noise levels, each of sigma's shape."""

    c_skip: Tensor
    c_out: Tensor
    c_in: Tensor
    c_noise: Tensor


@dataclass(frozen=True)
class DMConfig(ABC):
    """A DM config. All methods act elementwise and keep shape, dtype and device."""

    name: ClassVar[str]

    @abstractmethod
    def preconditioning(self, sigma: Tensor) -> Preconditioning:
        """c_skip, c_out, c_in and c_noise at sigma > 0."""

    @abstractmethod
    def quantile(self, u: Tensor) -> Tensor:
        """The noise level below which a share u of p(sigma) lies; u strictly between 0 and 1.

        Increasing, so that strata of u are strata of sigma.
        """

    @abstractmethod
    def weight(self, sigma: Tensor) -> Tensor:
        """The loss weight lambda(sigma)."""


@dataclass(frozen=True)
class VP(DMConfig):
    """Variance preserving SDE of Song et al. 2021, with beta(t) = beta_min + beta_d t."""

    name: ClassVar[str] = "vp"
    beta_min: float = 0.1
    beta_d: float = 19.9
    t_min: float = 1e-5
    t_max: float = 1.0
    noise_labels: float = 999.0

    def preconditioning(self, sigma: Tensor) -> Preconditioning:
        return Preconditioning(
            c_skip=torch.ones_like(sigma),
            c_out=-sigma,
            c_in=(sigma.square() + 1.0).rsqrt(),
            c_noise=self.noise_labels * self.time(sigma),
        )

    def quantile(self, u: Tensor) -> Tensor:
        t = self.t_min + (self.t_max - self.t_min) * u
        return torch.expm1(0.5 * self.beta_d * t.square() + self.beta_min * t).sqrt()

    def weight(self, sigma: Tensor) -> Tensor:
        return sigma.square().reciprocal()

    def time(self, sigma: Tensor) -> Tensor:
        """The t of a sigma: ln(1 + sigma^2) = beta_d t^2 / 2 + beta_min t."""
        log = torch.log1p(sigma.square())
        # The root of the quadratic in the form that does not cancel at small sigma.
        return 2.0 * log / (self.beta_min + (self.beta_min**2 + 2.0 * self.beta_d * log).sqrt())


@dataclass(frozen=True)
class VE(DMConfig):
    """Variance exploding SDE of Song et al. 2021: noise levels uniform in the logarithm."""

    name: ClassVar[str] = "ve"
    sigma_min: float = 0.02
    sigma_max: float = 100.0

    def preconditioning(self, sigma: Tensor) -> Preconditioning:
        return Preconditioning(
            c_skip=torch.ones_like(sigma),
            c_out=sigma.clone(),
            c_in=torch.ones_like(sigma),
            c_noise=(0.5 * sigma).log(),
        )

    def quantile(self, u: Tensor) -> Tensor:
        return self.sigma_min * torch.exp(u * math.log(self.sigma_max / self.sigma_min))

    def weight(self, sigma: Tensor) -> Tensor:
        return sigma.square().reciprocal()


@dataclass(frozen=True)
class V(DMConfig):
    """v-prediction with the cosine schedule of Salimans and Ho 2022.

    The angle arctan(sigma) is uniform between its values at the two ends of logSNR = -2 ln sigma.
    The sign of c_out is that of the paper's code: the network
    learns minus the v of Salimans and Ho.
    """

    name: ClassVar[str] = "v"
    logsnr_min: float = -9.0
    logsnr_max: float = 13.0

    def preconditioning(self, sigma: Tensor) -> Preconditioning:
        scale = (sigma.square() + 1.0).rsqrt()
        return Preconditioning(
            c_skip=scale.square(),
            c_out=sigma * scale,
            c_in=scale,
            c_noise=sigma.atan() * (2.0 / math.pi),
        )

    def quantile(self, u: Tensor) -> Tensor:
        low = math.atan(math.exp(-0.5 * self.logsnr_max))
        high = math.atan(math.exp(-0.5 * self.logsnr_min))
        return torch.tan(low + (high - low) * u)

    def weight(self, sigma: Tensor) -> Tensor:
        return 1.0 + sigma.square().reciprocal()


@dataclass(frozen=True)
class EDM(DMConfig):
    """Karras et al. 2022; sigma_data is the standard deviation of a pixel uniform on [-1, 1]."""

    name: ClassVar[str] = "edm"
    sigma_data: float = math.sqrt(1.0 / 3.0)
    log_sigma_mean: float = -1.2
    log_sigma_std: float = 1.2

    def preconditioning(self, sigma: Tensor) -> Preconditioning:
        scale = (sigma.square() + self.sigma_data**2).rsqrt()
        return Preconditioning(
            c_skip=(self.sigma_data * scale).square(),
            c_out=sigma * self.sigma_data * scale,
            c_in=scale,
            c_noise=0.25 * sigma.log(),
        )

    def quantile(self, u: Tensor) -> Tensor:
        return torch.exp(self.log_sigma_mean + self.log_sigma_std * torch.special.ndtri(u))

    def weight(self, sigma: Tensor) -> Tensor:
        return self.sigma_data**-2 + sigma.square().reciprocal()


@dataclass(frozen=True)
class WithinRange(DMConfig):
    """Another DM config with p(sigma) cut to low <= sigma <= high and scaled up to one.

    RequestError where next to nothing of p(sigma) lies there.
    """

    name: ClassVar[str] = "within range"
    whole: DMConfig
    low: float
    high: float

    def __post_init__(self) -> None:
        below, above = self._shares
        if above - below < 0.01:
            raise RequestError(
                f"diffusion.sigma_range={self.low:g},{self.high:g}: less than 1% of the noise "
                f"levels of diffusion.config={self.whole.name} lie there; use a wider range"
            )

    def preconditioning(self, sigma: Tensor) -> Preconditioning:
        return self.whole.preconditioning(sigma)

    def quantile(self, u: Tensor) -> Tensor:
        below, above = self._shares
        return self.whole.quantile(below + (above - below) * u).clamp(self.low, self.high)

    def weight(self, sigma: Tensor) -> Tensor:
        return self.whole.weight(sigma)

    @cached_property
    def _shares(self) -> tuple[float, float]:
        """The shares of p(sigma) below the range's two ends."""
        return self._share_below(self.low), self._share_below(self.high)

    def _share_below(self, sigma: float) -> float:
        """The u whose quantile is sigma, by bisection; 0 or 1 beyond the ends."""
        low, high = 0.0, 1.0
        for _ in range(50):
            middle = 0.5 * (low + high)
            reached = float(self.whole.quantile(torch.tensor(middle, dtype=torch.float64)))
            low, high = (middle, high) if reached < sigma else (low, middle)
        return 0.5 * (low + high)


_CONFIGS: dict[str, DMConfig] = {config.name: config for config in (VP(), VE(), V(), EDM())}
DM_CONFIG_NAMES: tuple[str, ...] = tuple(_CONFIGS)


def dm_config(name: str, sigma_range: tuple[float, float] | None = None) -> DMConfig:
    """The DM config of that name, with the paper's constants, or with p(sigma) within a range.

    RequestError for any other name, or where p(sigma) has next to nothing in that range.
    """
    if name not in _CONFIGS:
        near = difflib.get_close_matches(name, DM_CONFIG_NAMES, n=1)
        hint = f"; did you mean {near[0]}?" if near else ""
        raise RequestError(
            f"diffusion.config={name!r} is not a DM config; use one of "
            f"{', '.join(DM_CONFIG_NAMES)}{hint}"
        )
    found = _CONFIGS[name]
    return found if sigma_range is None else WithinRange(found, *sigma_range)

"""Samplers: plain functions from initial noise to images, over a falling sequence of noise levels.

All are written in the variables of Karras et al. 2022 (EDM): x = x0 + sigma n, and the probability
flow ODE is dx/dsigma = (x - D(x; sigma)) / sigma. Every one is called as

    sample_x(denoiser, x, sigmas, *, generator=None, callback=None, ...) -> x (N, C, H, W)

with ``denoiser(x, sigma (N,))`` already conditioned (see guidance.condition), ``x`` noise already
scaled by ``sigmas[0]``, and ``sigmas`` (steps + 1,) ending in 0 (see karras_sigmas).
``callback(step, steps, x, denoised)`` is called after each step, counted from 1. x keeps its dtype.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor

from dpdm.diffusion.draws import normal
from dpdm.diffusion.guidance import Conditioned
from dpdm.errors import RequestError

Callback = Callable[[int, int, Tensor, Tensor], None]
Sampler = Callable[..., Tensor]


def karras_sigmas(
    steps: int, sigma_min: float = 0.002, sigma_max: float = 80.0, rho: float = 7.0
) -> Tensor:
    """Noise levels falling from sigma_max to sigma_min and then 0, float64 (steps + 1,). EDM eq. 5.

    Evenly spaced in sigma^(1/rho). Raises RequestError for no steps or levels out of order.
    """
    if steps < 1:
        raise RequestError(f"sampling.steps={steps} takes no step; use 1 or more")
    if not 0.0 < sigma_min < sigma_max < math.inf:
        raise RequestError(
            f"sampling.sigma_min={sigma_min} and sampling.sigma_max={sigma_max} are not noise "
            "levels in order; use 0 < sigma_min < sigma_max"
        )
    if not 0.0 < rho < math.inf:
        raise RequestError(f"sampling.rho={rho} is not a positive number; the paper uses 7")
    ramp = torch.linspace(
        sigma_max ** (1.0 / rho), sigma_min ** (1.0 / rho), steps, dtype=torch.float64
    )
    return torch.cat([ramp**rho, torch.zeros(1, dtype=torch.float64)])


def _denoise(denoiser: Conditioned, x: Tensor, sigma: float) -> Tensor:
    return denoiser(x, x.new_full((x.shape[0],), sigma)).to(x.dtype)


def _normal_like(x: Tensor, generator: torch.Generator | None) -> Tensor:
    return normal(x.shape, generator=generator, device=x.device, dtype=x.dtype)


def sample_ddim(
    denoiser: Conditioned,
    x: Tensor,
    sigmas: Tensor,
    *,
    generator: torch.Generator | None = None,
    callback: Callback | None = None,
) -> Tensor:
    """Deterministic DDIM (Song et al. 2021): Euler's method on the probability flow ODE, order 1.

    ``generator`` is not used.
    """
    return _with_held_denoised(denoiser, x, sigmas, 1, callback)


def _with_held_denoised(
    denoiser: Conditioned, x: Tensor, sigmas: Tensor, order: int, callback: Callback | None
) -> Tensor:
    """The probability flow ODE solved step by step as if D did not change within a step.

    The solution is then D + (sigma' / sigma) (x - D). D is what the denoiser says at the start of
    the step (order 1), or that extrapolated half of the step ahead in log sigma, from this level
    and the one before (order 2, but for the first and the last step). One evaluation a step.
    """
    levels = sigmas.tolist()
    steps = len(levels) - 1
    earlier: tuple[Tensor, float] | None = None
    for step, (sigma, following) in enumerate(pairwise(levels), start=1):
        denoised = held = _denoise(denoiser, x, sigma)
        if following > 0.0 and earlier is not None:
            before, above = earlier
            share = math.log(sigma / following) / (2.0 * math.log(above / sigma))
            held = denoised + share * (denoised - before)
        x = held + (following / sigma) * (x - held)
        if order > 1:
            earlier = denoised, sigma
        if callback is not None:
            callback(step, steps, x, denoised)
    return x


def sample_ddim_stochastic(
    denoiser: Conditioned,
    x: Tensor,
    sigmas: Tensor,
    *,
    generator: torch.Generator | None = None,
    callback: Callback | None = None,
) -> Tensor:
    """Stochastic DDIM: Euler-Maruyama on the reverse SDE, as in DPDM.

    dx = 2 (x - D) / sigma dsigma + sqrt(2 sigma |dsigma|) n. The last step, to 0, gives D itself.
    """
    levels = sigmas.tolist()
    steps = len(levels) - 1
    for step, (sigma, following) in enumerate(pairwise(levels), start=1):
        denoised = _denoise(denoiser, x, sigma)
        if following == 0.0:
            x = denoised
        else:
            fall = sigma - following
            x = x - (2.0 * fall / sigma) * (x - denoised)
            x = x + math.sqrt(2.0 * sigma * fall) * _normal_like(x, generator)
        if callback is not None:
            callback(step, steps, x, denoised)
    return x


def sample_churn(
    denoiser: Conditioned,
    x: Tensor,
    sigmas: Tensor,
    *,
    s_churn: float = 0.0,
    s_min: float = 0.0,
    s_max: float = math.inf,
    s_noise: float = 1.0,
    generator: torch.Generator | None = None,
    callback: Callback | None = None,
) -> Tensor:
    """The stochastic second-order sampler of Karras et al. 2022, Algorithm 2.

    At each step with s_min <= sigma <= s_max, noise of standard deviation ``s_noise`` raises sigma
    by the factor 1 + gamma, gamma = min(s_churn / steps, sqrt(2) - 1); then one step of Heun's
    method. 2 steps - 1 evaluations.
    """
    levels = sigmas.tolist()
    steps = len(levels) - 1
    churn = min(s_churn / steps, math.sqrt(2.0) - 1.0)
    for step, (sigma, following) in enumerate(pairwise(levels), start=1):
        if churn > 0.0 and s_min <= sigma <= s_max:
            raised = (1.0 + churn) * sigma
            added = s_noise * math.sqrt(raised**2 - sigma**2)
            x, sigma = x + added * _normal_like(x, generator), raised
        denoised = _denoise(denoiser, x, sigma)
        slope = (x - denoised) / sigma
        ahead = x + (following - sigma) * slope
        if following > 0.0:
            denoised = _denoise(denoiser, ahead, following)
            slope = 0.5 * (slope + (ahead - denoised) / following)
            ahead = x + (following - sigma) * slope
        x = ahead
        if callback is not None:
            callback(step, steps, x, denoised)
    return x


def sample_heun(
    denoiser: Conditioned,
    x: Tensor,
    sigmas: Tensor,
    *,
    generator: torch.Generator | None = None,
    callback: Callback | None = None,
) -> Tensor:
    """Heun's method on the probability flow ODE, order 2 (EDM Algorithm 1): Churn without noise.

    ``generator`` is not used.
    """
    return sample_churn(denoiser, x, sigmas, generator=generator, callback=callback)


def sample_dpmpp_2m(
    denoiser: Conditioned,
    x: Tensor,
    sigmas: Tensor,
    *,
    generator: torch.Generator | None = None,
    callback: Callback | None = None,
) -> Tensor:
    """DPM-Solver++(2M) of Lu et al. 2022 (arXiv 2211.01095, Algorithm 2): order 2, deterministic.

    One evaluation a step, as DDIM, which its first step is. ``generator`` is not used.
    """
    return _with_held_denoised(denoiser, x, sigmas, 2, callback)


SAMPLERS: dict[str, Sampler] = {
    "churn": sample_churn,
    "heun": sample_heun,
    "ddim": sample_ddim,
    "ddim-stochastic": sample_ddim_stochastic,
    "dpmpp-2m": sample_dpmpp_2m,
}
CHURN_OPTIONS: tuple[str, ...] = ("s_churn", "s_min", "s_max", "s_noise")

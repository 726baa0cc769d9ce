"""Samplers on targets whose exact denoiser is known in closed form."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import get_args

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from dpdm.config.schema import SamplerName
from dpdm.diffusion.samplers import (
    SAMPLERS,
    karras_sigmas,
    sample_churn,
    sample_ddim,
    sample_ddim_stochastic,
    sample_dpmpp_2m,
    sample_heun,
)
from dpdm.errors import RequestError

MEAN = torch.tensor([0.3, -0.4], dtype=torch.float64)
COVARIANCE = torch.tensor([[0.25, 0.12], [0.12, 0.16]], dtype=torch.float64)

# Steps that leave a bias well under the statistical error of the tests below.
RUNS: list[tuple[str, int, dict[str, float]]] = [
    ("heun", 40, {}),
    ("ddim", 400, {}),
    ("ddim-stochastic", 1000, {}),
    ("dpmpp-2m", 40, {}),
    ("churn", 60, {"s_churn": 20.0}),
    ("churn", 60, {"s_churn": 20.0, "s_min": 0.05, "s_max": 50.0, "s_noise": 1.0}),
]


def gaussian(x: Tensor, sigma: Tensor) -> Tensor:
    """E[x0 | x] for x0 ~ N(MEAN, COVARIANCE), images (N, 1, 1, 2)."""
    noisy = COVARIANCE + float(sigma[0]) ** 2 * torch.eye(2, dtype=torch.float64)
    gain = COVARIANCE @ torch.linalg.inv(noisy)
    flat = x.reshape(-1, 2).double()
    return (MEAN + (flat - MEAN) @ gain.T).reshape(x.shape).to(x.dtype)


def gaussian_solution(x: Tensor, start: float, end: float) -> Tensor:
    """Where the probability flow ODE takes x from noise level start to end: each principal axis
    shrinks by the ratio of the marginal standard deviations."""
    variances, axes = torch.linalg.eigh(COVARIANCE)
    shrink = ((variances + end**2) / (variances + start**2)).sqrt()
    return (MEAN + (x.reshape(-1, 2) - MEAN) @ axes * shrink @ axes.T).reshape(x.shape)


def two_peaks(x: Tensor, sigma: Tensor) -> Tensor:
    """E[x0 | x] for 0.3 N(-0.9, 0.15^2) + 0.7 N(0.6, 0.15^2), images (N, 1, 1, 1)."""
    variance = 0.15**2 + float(sigma[0]) ** 2
    odds = math.log(0.7 / 0.3) + ((x + 0.9).square() - (x - 0.6).square()) / (2.0 * variance)
    right = torch.sigmoid(odds)
    centre = 0.6 * right - 0.9 * (1.0 - right)
    return centre + 0.15**2 / variance * (x - centre)


def two_peaks_cdf(x: np.ndarray) -> np.ndarray:
    return 0.3 * stats.norm.cdf(x, -0.9, 0.15) + 0.7 * stats.norm.cdf(x, 0.6, 0.15)


def start(count: int, width: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return 80.0 * torch.randn(count, 1, 1, width, generator=g, dtype=dtype)


def test_the_configuration_takes_every_sampler_and_no_other() -> None:
    assert set(get_args(SamplerName)) == set(SAMPLERS)


@pytest.mark.parametrize(("name", "steps", "options"), RUNS)
def test_a_gaussian_targets_mean_and_covariance_come_out(
    name: str, steps: int, options: dict[str, float]
) -> None:
    count = 20_000
    x = SAMPLERS[name](
        gaussian,
        start(count, 2),
        karras_sigmas(steps),
        generator=torch.Generator().manual_seed(1),
        **options,
    )
    flat = x.reshape(count, 2)
    torch.testing.assert_close(flat.mean(0), MEAN, atol=5 * 0.5 / count**0.5, rtol=0)
    torch.testing.assert_close(torch.cov(flat.T), COVARIANCE, atol=6 * 0.25 / count**0.5, rtol=0)


@pytest.mark.parametrize(("name", "steps", "options"), RUNS)
def test_a_mixture_of_gaussians_comes_out_with_its_whole_distribution(
    name: str, steps: int, options: dict[str, float]
) -> None:
    x = SAMPLERS[name](
        two_peaks,
        start(4000, 1, seed=2),
        karras_sigmas(steps),
        generator=torch.Generator().manual_seed(3),
        **options,
    )
    values = x.flatten().numpy()
    assert stats.kstest(values, two_peaks_cdf).pvalue > 1e-3
    assert values.mean() == pytest.approx(0.15, abs=5 * 0.71 / 4000**0.5)
    assert values.var() == pytest.approx(0.15**2 + 0.21 * 1.5**2, rel=0.06)


@pytest.mark.parametrize(
    ("sampler", "order"), [(sample_ddim, 1.0), (sample_heun, 2.0), (sample_dpmpp_2m, 2.0)]
)
def test_deterministic_samplers_have_their_order_of_convergence(
    sampler: Callable[..., Tensor], order: float
) -> None:
    """The error against the ODE's solution, from 80 to 0.002, falls as steps^-order."""
    x = start(200, 2, seed=4)
    exact = gaussian_solution(x, 80.0, 0.002)
    counts = [64, 128, 256, 512]
    errors = []
    for steps in counts:
        levels = karras_sigmas(steps)[:-1]
        errors.append(float((sampler(gaussian, x, levels) - exact).abs().max()))
    slope = np.polyfit(np.log(counts), np.log(errors), 1)[0]
    assert -slope == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize(("name", "steps", "options"), RUNS)
def test_the_step_to_zero_gives_the_denoised_image(
    name: str, steps: int, options: dict[str, float]
) -> None:
    seen: list[tuple[Tensor, Tensor]] = []
    SAMPLERS[name](
        gaussian,
        start(5, 2),
        karras_sigmas(12),
        callback=lambda step, total, x, denoised: seen.append((x, denoised)),
        **options,
    )
    torch.testing.assert_close(*seen[-1])


@pytest.mark.parametrize("steps", [1, 2, 12, 20])
def test_dpmpp_2m_goes_where_the_scheduler_of_diffusers_goes(steps: int) -> None:
    diffusers = pytest.importorskip("diffusers")
    scheduler = diffusers.EDMDPMSolverMultistepScheduler(sigma_min=0.002, sigma_max=80.0)
    scheduler.set_timesteps(steps)
    x = theirs = start(20, 2)
    for sigma, time in zip(scheduler.sigmas.double(), scheduler.timesteps, strict=False):
        kept, scaled = 0.25 / (sigma**2 + 0.25), 0.5 * sigma / (sigma**2 + 0.25).sqrt()
        output = (gaussian(theirs, sigma.expand(20)) - kept * theirs) / scaled
        theirs = scheduler.step(output, time, theirs).prev_sample
    own = sample_dpmpp_2m(gaussian, x, karras_sigmas(steps))
    torch.testing.assert_close(own, theirs, atol=1e-6, rtol=0)


def test_churn_without_churn_is_heun() -> None:
    x, levels = start(50, 2), karras_sigmas(20)
    assert torch.equal(sample_churn(gaussian, x, levels), sample_heun(gaussian, x, levels))


def test_churn_raises_the_noise_level_within_its_bounds_only() -> None:
    levels, seen = karras_sigmas(10), []

    def denoiser(x: Tensor, sigma: Tensor) -> Tensor:
        seen.append(float(sigma[0]))
        return gaussian(x, sigma)

    sample_churn(denoiser, start(2, 2), levels, s_churn=2.0, s_min=0.1, s_max=30.0)
    expected = []
    for level, following in zip(levels[:-1].tolist(), levels[1:].tolist(), strict=True):
        expected.append(level * (1.2 if 0.1 <= level <= 30.0 else 1.0))
        expected.extend([following] if following > 0 else [])
    assert seen == pytest.approx(expected)


def test_churn_is_capped_at_the_square_root_of_two() -> None:
    seen = []

    def denoiser(x: Tensor, sigma: Tensor) -> Tensor:
        seen.append(float(sigma[0]))
        return gaussian(x, sigma)

    sample_churn(denoiser, start(2, 2), karras_sigmas(4), s_churn=1000.0)
    assert seen[0] == pytest.approx(80.0 * math.sqrt(2.0))


def test_churn_adds_exactly_the_variance_of_the_raise() -> None:
    """With D = x nothing is removed: one step from 1 to 1.2 leaves only what was added."""
    x = torch.zeros(100_000, 1, 1, 1, dtype=torch.float64)
    levels = torch.tensor([1.0, 0.0])
    for s_noise in (1.0, 1.007):
        g = torch.Generator().manual_seed(5)
        out = sample_churn(lambda x, s: x, x, levels, s_churn=0.2, s_noise=s_noise, generator=g)
        assert float(out.var()) == pytest.approx(s_noise**2 * (1.2**2 - 1.0), rel=0.02)


def test_stochastic_ddim_follows_the_euler_maruyama_step() -> None:
    """One step from 2 to 1.5 with D = 0: x (1 - 2 * 0.5 / 2) plus noise of variance 2 * 2 * 0.5."""
    x = torch.full((100_000, 1, 1, 1), 3.0, dtype=torch.float64)
    g = torch.Generator().manual_seed(6)
    out = sample_ddim_stochastic(
        lambda x, s: torch.zeros_like(x), x, torch.tensor([2.0, 1.5]), generator=g
    )
    assert float(out.mean()) == pytest.approx(1.5, abs=0.02)
    assert float(out.var()) == pytest.approx(2.0, rel=0.02)


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_callback_sees_every_step(name: str) -> None:
    seen: list[tuple[int, int, torch.Size, torch.Size]] = []
    SAMPLERS[name](
        gaussian,
        start(3, 2),
        karras_sigmas(7),
        callback=lambda step, steps, x, denoised: seen.append(
            (step, steps, x.shape, denoised.shape)
        ),
    )
    assert seen == [(step, 7, (3, 1, 1, 2), (3, 1, 1, 2)) for step in range(1, 8)]


@pytest.mark.parametrize("name", SAMPLERS)
def test_the_images_keep_their_dtype_and_the_denoiser_gets_one_sigma_an_image(name: str) -> None:
    def denoiser(x: Tensor, sigma: Tensor) -> Tensor:
        assert (x.dtype, sigma.dtype, sigma.shape) == (torch.float32, torch.float32, (3,))
        return gaussian(x, sigma)

    x = SAMPLERS[name](denoiser, start(3, 2, dtype=torch.float32), karras_sigmas(5))
    assert x.dtype == torch.float32


@pytest.mark.parametrize(("name", "steps", "options"), RUNS)
def test_a_seed_fixes_the_samples(name: str, steps: int, options: dict[str, float]) -> None:
    def draw() -> Tensor:
        g = torch.Generator().manual_seed(7)
        return SAMPLERS[name](gaussian, start(4, 2), karras_sigmas(9), generator=g, **options)

    assert torch.equal(draw(), draw())


def test_karras_levels_are_those_of_edm_equation_5() -> None:
    levels = karras_sigmas(18)
    expected = [
        (80 ** (1 / 7) + i / 17 * (0.002 ** (1 / 7) - 80 ** (1 / 7))) ** 7 for i in range(18)
    ]
    assert levels.dtype == torch.float64
    assert levels.tolist() == pytest.approx([*expected, 0.0], rel=1e-12)


def test_one_step_goes_from_the_largest_level_to_zero() -> None:
    assert karras_sigmas(1).tolist() == pytest.approx([80.0, 0.0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, r"sampling\.steps=0"),
        ({"steps": 5, "sigma_min": 3.0, "sigma_max": 2.0}, "not noise levels in order"),
        ({"steps": 5, "sigma_min": 0.0}, "not noise levels in order"),
        ({"steps": 5, "sigma_max": math.inf}, "not noise levels in order"),
        ({"steps": 5, "rho": 0.0}, r"sampling\.rho=0\.0"),
    ],
)
def test_schedules_that_make_no_sense_are_refused(
    arguments: dict[str, float], message: str
) -> None:
    with pytest.raises(RequestError, match=message):
        karras_sigmas(**arguments)  # type: ignore[arg-type]

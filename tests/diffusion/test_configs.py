"""The four DM configs against hand-derived values, design principles and other formulas."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from dpdm.diffusion.configs import DM_CONFIG_NAMES, EDM, VE, VP, V, dm_config
from dpdm.errors import RequestError

SIGMAS = (0.002, 0.05, 1.0, 7.5, 80.0)


def coefficients(name: str, sigma: float) -> tuple[float, float, float, float, float]:
    level = torch.tensor([sigma], dtype=torch.float64)
    config = dm_config(name)
    c = config.preconditioning(level)
    values = (c.c_skip, c.c_out, c.c_in, c.c_noise, config.weight(level))
    return tuple(float(v) for v in values)  # type: ignore[return-value]


def test_edm_at_sigma_one_by_hand() -> None:
    # sigma_data^2 = 1/3, so sigma^2 + sigma_data^2 = 4/3.
    assert coefficients("edm", 1.0) == pytest.approx(
        (0.25, 0.5, math.sqrt(3) / 2, 0.0, 4.0), rel=1e-12, abs=1e-15
    )


def test_v_at_sigma_one_by_hand() -> None:
    half = math.sqrt(0.5)
    assert coefficients("v", 1.0) == pytest.approx((0.5, half, half, 0.5, 2.0), rel=1e-12)


def test_ve_at_sigma_two_by_hand() -> None:
    assert coefficients("ve", 2.0) == pytest.approx((1.0, 2.0, 1.0, 0.0, 0.25), rel=1e-12)


def test_vp_at_the_end_of_its_schedule_by_hand() -> None:
    # At t = 1, ln(1 + sigma^2) = 19.9 / 2 + 0.1 = 10.05.
    sigma = math.sqrt(math.exp(10.05) - 1.0)
    expected = (1.0, -sigma, math.exp(-5.025), 999.0, 1.0 / sigma**2)
    assert coefficients("vp", sigma) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_edm_follows_table_1_of_karras(sigma: float) -> None:
    s2 = 1.0 / 3.0
    total = sigma**2 + s2
    expected = (
        s2 / total,
        sigma * math.sqrt(s2) / math.sqrt(total),
        1.0 / math.sqrt(total),
        math.log(sigma) / 4.0,
        total / (sigma**2 * s2),
    )
    assert coefficients("edm", sigma) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_v_follows_the_papers_table(sigma: float) -> None:
    root = math.sqrt(sigma**2 + 1.0)
    angle = math.acos(1.0 / root) if sigma > 0.1 else math.asin(sigma / root)
    expected = (
        1.0 / root**2,
        sigma / root,
        1.0 / root,
        2.0 * angle / math.pi,
        (sigma**2 + 1.0) / sigma**2,
    )
    assert coefficients("v", sigma) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_ve_follows_table_1_of_karras(sigma: float) -> None:
    expected = (1.0, sigma, 1.0, math.log(sigma / 2.0), sigma**-2)
    assert coefficients("ve", sigma) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("t", [1e-5, 1e-3, 0.1, 0.5, 1.0])
def test_vp_recovers_the_time_of_its_schedule(t: float) -> None:
    sigma = math.sqrt(math.expm1(0.5 * 19.9 * t**2 + 0.1 * t))
    expected = (1.0, -sigma, 1.0 / math.sqrt(sigma**2 + 1.0), 999.0 * t, sigma**-2)
    assert coefficients("vp", sigma) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", DM_CONFIG_NAMES)
@pytest.mark.parametrize("sigma", SIGMAS)
def test_the_loss_weight_is_one_over_the_networks_scale_squared(name: str, sigma: float) -> None:
    _, c_out, _, _, weight = coefficients(name, sigma)
    assert weight * c_out**2 == pytest.approx(1.0, rel=1e-10)


@pytest.mark.parametrize("sigma", SIGMAS)
def test_edm_gives_the_network_inputs_and_targets_of_unit_variance(sigma: float) -> None:
    c_skip, c_out, c_in, _, _ = coefficients("edm", sigma)
    s2 = 1.0 / 3.0
    assert c_in**2 * (s2 + sigma**2) == pytest.approx(1.0)
    target_variance = (1.0 - c_skip) ** 2 * s2 + c_skip**2 * sigma**2
    assert target_variance / c_out**2 == pytest.approx(1.0)


def quantile_samples(name: str, count: int = 4000) -> np.ndarray:
    g = torch.Generator().manual_seed(3)
    u = torch.rand(count, generator=g, dtype=torch.float64)
    return dm_config(name).quantile(u).numpy()


def test_edm_noise_levels_are_lognormal() -> None:
    law = stats.lognorm(s=1.2, scale=math.exp(-1.2))
    assert stats.kstest(quantile_samples("edm"), law.cdf).pvalue > 0.01


def test_ve_noise_levels_are_loguniform() -> None:
    assert stats.kstest(quantile_samples("ve"), stats.loguniform(0.02, 100.0).cdf).pvalue > 0.01


def test_vp_noise_levels_have_uniform_times() -> None:
    # The time by root finding on a grid, not by the closed form under test.
    grid = np.linspace(0.0, 1.0, 200_001)
    levels = np.sqrt(np.expm1(0.5 * 19.9 * grid**2 + 0.1 * grid))
    times = np.interp(quantile_samples("vp"), levels, grid)
    assert stats.kstest(times, stats.uniform(1e-5, 1.0 - 1e-5).cdf).pvalue > 0.01


def test_v_noise_levels_are_the_cosine_schedule_between_its_log_snr() -> None:
    # Salimans and Ho 2022: logSNR = -2 ln tan(a t + b), t uniform.
    b = math.atan(math.exp(-0.5 * 13.0))
    a = math.atan(math.exp(0.5 * 9.0)) - b
    log_snr = -2.0 * np.log(np.tan(a * np.random.default_rng(0).uniform(size=4000) + b))
    ours = -2.0 * np.log(quantile_samples("v"))
    assert stats.ks_2samp(ours, log_snr).pvalue > 0.01
    assert -9.0 <= ours.min() < ours.max() <= 13.0


@pytest.mark.parametrize("name", DM_CONFIG_NAMES)
def test_quantiles_increase(name: str) -> None:
    u = torch.linspace(1e-6, 1 - 1e-6, 501, dtype=torch.float64)
    assert (dm_config(name).quantile(u).diff() > 0).all()


@pytest.mark.parametrize("name", DM_CONFIG_NAMES)
def test_float32_coefficients_agree_with_float64(name: str) -> None:
    levels = torch.logspace(-3, 2, 60, dtype=torch.float64)
    narrow = dm_config(name).preconditioning(levels.float())
    wide = dm_config(name).preconditioning(levels)
    for part in ("c_skip", "c_out", "c_in", "c_noise"):
        torch.testing.assert_close(
            getattr(narrow, part).double(), getattr(wide, part), rtol=1e-5, atol=1e-6
        )


def test_the_four_names_are_those_of_the_paper() -> None:
    assert DM_CONFIG_NAMES == ("vp", "ve", "v", "edm")
    assert [type(dm_config(name)) for name in DM_CONFIG_NAMES] == [VP, VE, V, EDM]
    assert [dm_config(name).name for name in DM_CONFIG_NAMES] == list(DM_CONFIG_NAMES)


def test_an_unknown_name_is_refused_with_the_nearest_right_one() -> None:
    with pytest.raises(RequestError, match=r"'emd'.*vp, ve, v, edm; did you mean edm\?"):
        dm_config("emd")


def test_configs_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        dm_config("edm").sigma_data = 0.5  # type: ignore[attr-defined]

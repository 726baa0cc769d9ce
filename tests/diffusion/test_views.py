"""Every view law: exact marginals for each view, spread over the strata, unbiased means, seeded."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats

from dpdm.diffusion.configs import DM_CONFIG_NAMES, dm_config
from dpdm.diffusion.views import VIEW_LAWS, draw_views
from dpdm.errors import RequestError

SHAPE = (1, 2, 2)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def quantiles(sigma: torch.Tensor) -> torch.Tensor:
    """The edm law's distribution function, from scipy."""
    return torch.from_numpy(stats.lognorm(s=1.2, scale=math.exp(-1.2)).cdf(sigma.double().numpy()))


@pytest.mark.parametrize("law", VIEW_LAWS)
@pytest.mark.parametrize("views", [1, 4, 5])
def test_each_view_by_itself_has_the_noise_levels_of_the_dm_config(law: str, views: int) -> None:
    sigma, _ = draw_views(law, dm_config("edm"), 3000, views, SHAPE, seeded())
    u = quantiles(sigma).reshape(3000, views)
    for view in range(views):
        assert stats.kstest(u[:, view].numpy(), "uniform").pvalue > 1e-3


@pytest.mark.parametrize("law", VIEW_LAWS)
@pytest.mark.parametrize("views", [1, 4, 5])
def test_each_view_by_itself_has_standard_normal_noise(law: str, views: int) -> None:
    _, noise = draw_views(law, dm_config("edm"), 2000, views, SHAPE, seeded(1))
    for view in noise.reshape(2000, views, -1).unbind(1):
        assert stats.kstest(view.flatten().numpy(), "norm").pvalue > 1e-3
        torch.testing.assert_close(torch.cov(view.T), torch.eye(4), atol=0.15, rtol=0)


@pytest.mark.parametrize("law", VIEW_LAWS)
def test_within_a_view_noise_does_not_depend_on_the_noise_level(law: str) -> None:
    sigma, noise = draw_views(law, dm_config("edm"), 1000, 4, SHAPE, seeded(2))
    for statistic in (noise.flatten(1).sum(1), noise.flatten(1).square().sum(1)):
        # Views of a unit depend on each other, so one view of each unit.
        first = torch.arange(0, 4000, 4)
        assert stats.spearmanr(sigma[first], statistic[first]).pvalue > 1e-3


@pytest.mark.parametrize("law", ["stratified", "stratified-antithetic"])
@pytest.mark.parametrize("views", [2, 5, 8])
def test_a_unit_has_one_view_in_each_stratum(law: str, views: int) -> None:
    sigma, _ = draw_views(law, dm_config("edm"), 50, views, SHAPE, seeded(3))
    strata = (quantiles(sigma) * views).floor().long().reshape(50, views)
    assert (strata.sort(dim=1).values == torch.arange(views)).all()


@pytest.mark.parametrize("views", [2, 5, 8])
def test_neighbouring_strata_have_opposite_noise(views: int) -> None:
    sigma, noise = draw_views(
        "stratified-antithetic", dm_config("edm"), 20, views, SHAPE, seeded(4)
    )
    order = sigma.reshape(20, views).argsort(dim=1)
    rows = torch.arange(20).unsqueeze(1)
    by_level = noise.reshape(20, views, -1)[rows, order]
    paired = views - views % 2
    assert torch.equal(by_level[:, 0:paired:2], -by_level[:, 1:paired:2])
    assert by_level.abs().flatten(0, 1).unique(dim=0).shape[0] == 20 * (views - views // 2)


@pytest.mark.parametrize("law", VIEW_LAWS)
@pytest.mark.parametrize("name", DM_CONFIG_NAMES)
def test_the_mean_over_views_is_unbiased(law: str, name: str) -> None:
    """An integrand in sigma and the noise with a known mean, odd and even parts, and a cross term.

    f = a + u + u n_1 + u^2 n_1^2 with u the quantile: E f = a + 1/2 + 0 + 1/3.
    """
    config = dm_config(name)
    sigma, noise = draw_views(law, config, 20_000, 4, (1, 1, 1), seeded(5))
    grid = torch.linspace(1e-7, 1 - 1e-7, 400_001, dtype=torch.float64)
    position = torch.searchsorted(config.quantile(grid), sigma.double())
    u, n = position / 400_000.0, noise.flatten()
    f = (2.0 + u + u * n + (u * n).square()).reshape(20_000, 4).mean(dim=1)
    error = f.std() / math.sqrt(20_000)
    assert abs(f.mean() - (2.0 + 1 / 2 + 1 / 3)) < 4.0 * error


def test_spread_views_average_with_less_variance_than_independent_ones() -> None:
    def variance(law: str) -> float:
        sigma, noise = draw_views(law, dm_config("edm"), 4000, 4, (1, 1, 1), seeded(6))
        f = quantiles(sigma) * (1.0 + noise.flatten())
        return float(f.reshape(4000, 4).mean(dim=1).var())

    assert variance("stratified-antithetic") < variance("stratified") < variance("iid")


@pytest.mark.parametrize("law", VIEW_LAWS)
def test_a_seed_fixes_the_views_and_another_changes_them(law: str) -> None:
    first = draw_views(law, dm_config("v"), 3, 4, SHAPE, seeded(7))
    again = draw_views(law, dm_config("v"), 3, 4, SHAPE, seeded(7))
    other = draw_views(law, dm_config("v"), 3, 4, SHAPE, seeded(8))
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], other[0])


@pytest.mark.parametrize("law", VIEW_LAWS)
def test_units_are_independent(law: str) -> None:
    sigma, noise = draw_views(law, dm_config("edm"), 4000, 2, (1, 1, 1), seeded(9))
    means = quantiles(sigma).reshape(4000, 2)[:, 0].double()
    normals = noise.reshape(4000, 2)[:, 0].double()
    for values in (means, normals):
        assert abs(torch.corrcoef(torch.stack([values[:-1], values[1:]]))[0, 1]) < 0.06


@pytest.mark.parametrize("law", VIEW_LAWS)
def test_no_units_give_empty_views(law: str) -> None:
    sigma, noise = draw_views(law, dm_config("edm"), 0, 4, (3, 8, 8), seeded())
    assert sigma.shape == (0,)
    assert noise.shape == (0, 3, 8, 8)


def test_views_are_float32() -> None:
    sigma, noise = draw_views("stratified", dm_config("edm"), 2, 4, (3, 8, 8))
    assert (sigma.dtype, noise.dtype) == (torch.float32, torch.float32)
    assert (sigma.shape, noise.shape) == ((8,), (8, 3, 8, 8))


def test_an_unknown_law_is_refused_with_the_known_ones() -> None:
    with pytest.raises(RequestError, match=r"views\.law='stratifed'.*did you mean stratified\?"):
        draw_views("stratifed", dm_config("edm"), 1, 1, SHAPE)


def test_no_views_are_refused() -> None:
    with pytest.raises(RequestError, match=r"views\.count=0"):
        draw_views("iid", dm_config("edm"), 1, 0, SHAPE)

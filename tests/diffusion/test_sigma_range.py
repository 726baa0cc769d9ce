"""A DM config within a range of noise levels, and samples that start from images."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from dpdm.config import load_config
from dpdm.diffusion.configs import DM_CONFIG_NAMES, dm_config
from dpdm.diffusion.generate import generate
from dpdm.errors import RequestError


@pytest.mark.parametrize("name", DM_CONFIG_NAMES)
def test_noise_levels_are_those_of_the_whole_config_that_lie_in_the_range(name: str):
    low, high = 0.1, 1.5
    generator = torch.Generator().manual_seed(0)
    u = torch.rand(200_000, generator=generator, dtype=torch.float64)
    whole = dm_config(name).quantile(u)
    kept = whole[(whole >= low) & (whole <= high)]
    within = dm_config(name, (low, high)).quantile(u[:4000])
    assert within.min() >= low
    assert within.max() <= high
    assert kstest(within.numpy(), np.sort(kept.numpy())).pvalue > 1e-3


def test_preconditioning_and_weight_are_those_of_the_whole_config():
    sigma = torch.tensor([0.1, 0.7, 2.0])
    whole, within = dm_config("edm"), dm_config("edm", (0.05, 2.0))
    assert torch.equal(whole.weight(sigma), within.weight(sigma))
    a, b = whole.preconditioning(sigma), within.preconditioning(sigma)
    assert torch.equal(a.c_noise, b.c_noise)
    assert torch.equal(a.c_skip, b.c_skip)


def test_a_range_with_next_to_nothing_in_it_is_refused():
    with pytest.raises(RequestError, match="less than 1%"):
        dm_config("edm", (70.0, 80.0))


def test_samples_start_from_what_is_given_with_the_first_noise_on_it():
    given = torch.linspace(-0.5, 0.5, 6).view(6, 1, 1, 1).expand(6, 1, 4, 4)
    seen = []

    def keep(x: torch.Tensor, sigma: torch.Tensor, labels: torch.Tensor | None) -> torch.Tensor:
        seen.append(x.clone())
        return given[: len(x)]

    images = generate(
        keep,
        None,
        (1, 4, 4),
        count=6,
        sampler="heun",
        steps=3,
        sigma_min=0.01,
        sigma_max=0.02,
        start=lambda first, stop: given[first:stop],
    )
    assert (seen[0] - given).abs().max() < 0.02 * 6
    assert (seen[0] - given).std() > 0.005
    expected = ((given[:, 0, 0, 0] + 1) * 127.5).round().numpy()
    np.testing.assert_allclose(images[:, 0, 0, 0], expected, atol=1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["sampling.start=prior", "prior.enabled=false"], "needs prior.enabled=true"),
        (["diffusion.sigma_range=[2.0, 1.0]"], "first noise level must be below"),
        (["diffusion.sigma_range=[0.05, 2.0]"], "the network is not trained there"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: list[str], message: str):
    with pytest.raises(RequestError, match=message):
        load_config("mnist-eps10", settings)

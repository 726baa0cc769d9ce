"""Bases, denoisers and the objective."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from dpdm.diffusion.configs import DM_CONFIG_NAMES, dm_config
from dpdm.diffusion.denoiser import (
    BaseDenoiser,
    Denoiser,
    InformedBase,
    PriorBase,
    SkipBase,
)
from dpdm.diffusion.mixture import Mixture
from dpdm.diffusion.objective import denoising_loss

Make = Callable[..., Mixture]
SHAPE = (2, 3, 4)
SIGMA = torch.tensor([0.01, 0.3, 2.0, 40.0])
LABELS = torch.tensor([0, 2, -1, 1])


class TinyNetwork(nn.Module):
    """A convolution of the inputs, shifted by c_noise and the label, that records its arguments."""

    def __init__(self, inputs: int, outputs: int = 2) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.seen: tuple[Tensor, Tensor, Tensor | None] | None = None

    def forward(self, inputs: Tensor, c_noise: Tensor, labels: Tensor | None) -> Tensor:
        self.seen = (inputs, c_noise, labels)
        shift = c_noise + (0.0 if labels is None else labels.float())
        return self.convolution(inputs) + 0.01 * shift.reshape(-1, 1, 1, 1)


def noisy() -> Tensor:
    return torch.randn(4, *SHAPE, generator=torch.Generator().manual_seed(0))


def prior(make_mixture: Make) -> Mixture:
    return make_mixture(SHAPE, dimension=20, dtype=torch.float32)


@pytest.mark.parametrize("name", DM_CONFIG_NAMES)
def test_the_skip_base_gives_karras_equation_7(name: str) -> None:
    torch.manual_seed(0)
    config, network, x = dm_config(name), TinyNetwork(2), noisy()
    denoiser = Denoiser(network, config, SkipBase(config))
    c = config.preconditioning(SIGMA)
    for i in range(4):
        one = slice(i, i + 1)
        f = network(c.c_in[i] * x[one], c.c_noise[one], LABELS[one])
        torch.testing.assert_close(
            denoiser(x[one], SIGMA[one], LABELS[one]), c.c_skip[i] * x[one] + c.c_out[i] * f
        )


def test_the_network_sees_scaled_inputs_the_noise_label_and_the_class() -> None:
    config, network, x = dm_config("edm"), TinyNetwork(2), noisy()
    Denoiser(network, config, SkipBase(config))(x, SIGMA, LABELS)
    assert network.seen is not None
    inputs, c_noise, labels = network.seen
    torch.testing.assert_close(inputs, x / (SIGMA**2 + 1 / 3).sqrt().reshape(-1, 1, 1, 1))
    torch.testing.assert_close(c_noise, SIGMA.log() / 4)
    assert labels is LABELS


@pytest.mark.parametrize("name", DM_CONFIG_NAMES)
def test_a_zero_network_on_the_prior_is_the_posterior_mean_exactly(
    make_mixture: Make, name: str
) -> None:
    mixture, config = prior(make_mixture), dm_config(name)
    network = TinyNetwork(3 * 2)
    network.forward = lambda inputs, c_noise, labels: network.convolution(inputs)  # type: ignore[method-assign]
    nn.init.zeros_(network.convolution.weight)
    nn.init.zeros_(network.convolution.bias)  # type: ignore[arg-type]
    denoiser = Denoiser(network, config, PriorBase(mixture, config))
    x = noisy()
    assert torch.equal(denoiser(x, SIGMA, LABELS), mixture.posterior_mean(x, SIGMA, LABELS))


def test_the_prior_base_shows_the_image_the_mean_and_the_noise_found(make_mixture: Make) -> None:
    mixture, config, x = prior(make_mixture), dm_config("edm"), noisy()
    base = PriorBase(mixture, config)
    output = base(x, SIGMA, LABELS)
    assert output.inputs.shape == (4, base.input_multiple * 2, 3, 4)
    scaled, mean, found = output.inputs.chunk(3, dim=1)
    torch.testing.assert_close(scaled, SkipBase(config)(x, SIGMA, LABELS).inputs)
    torch.testing.assert_close(mean, mixture.posterior_mean(x, SIGMA, LABELS))
    torch.testing.assert_close(found, (x - mean) / SIGMA.reshape(-1, 1, 1, 1))


@pytest.mark.parametrize("name", DM_CONFIG_NAMES)
def test_the_informed_base_weighs_image_and_posterior_mean_by_c_skip(
    make_mixture: Make, name: str
) -> None:
    mixture, config, x = prior(make_mixture), dm_config(name), noisy()
    base = InformedBase(mixture, config)
    output = base(x, SIGMA, LABELS)
    assert output.inputs.shape == (4, base.input_multiple * 2, 3, 4)
    scaled, shown = output.inputs.chunk(2, dim=1)
    mean, c_skip = mixture.posterior_mean(x, SIGMA, LABELS), config.preconditioning(SIGMA).c_skip
    torch.testing.assert_close(scaled, SkipBase(config)(x, SIGMA, LABELS).inputs)
    torch.testing.assert_close(shown, mean)
    for i in range(4):
        expected = c_skip[i] * x[i] + (1 - c_skip[i]) * mean[i]
        torch.testing.assert_close(output.mean[i], expected)


def test_the_informed_base_around_a_prior_of_nothing_is_the_skip_base(make_mixture: Make) -> None:
    config, x = dm_config("edm"), noisy()
    nothing = {"means": torch.zeros(3, 4, 20), "variances": torch.zeros(3, 3)}
    nothing |= {"floor": torch.zeros(3), "rest": torch.zeros(4)}
    mixture = make_mixture(SHAPE, dimension=20, dtype=torch.float32, **nothing)
    mean = InformedBase(mixture, config)(x, SIGMA, LABELS).mean
    torch.testing.assert_close(mean, SkipBase(config)(x, SIGMA, LABELS).mean)


def test_the_network_is_the_only_part_with_parameters_and_state(make_mixture: Make) -> None:
    config = dm_config("edm")
    denoiser = Denoiser(TinyNetwork(6), config, PriorBase(prior(make_mixture), config))
    names = ["network.convolution.weight", "network.convolution.bias"]
    assert [name for name, _ in denoiser.named_parameters()] == names
    assert list(denoiser.state_dict()) == names


def test_gradients_reach_the_network_and_not_the_base(make_mixture: Make) -> None:
    config = dm_config("edm")
    denoiser = Denoiser(TinyNetwork(6), config, PriorBase(prior(make_mixture), config))
    output = denoiser.base(noisy(), SIGMA, LABELS)
    assert not output.mean.requires_grad
    denoiser(noisy(), SIGMA, LABELS).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in denoiser.parameters())


def test_the_prior_moves_with_its_denoiser(make_mixture: Make) -> None:
    config = dm_config("edm")
    denoiser = Denoiser(TinyNetwork(6), config, PriorBase(prior(make_mixture), config))
    buffers = denoiser.to("meta").buffers()
    assert {buffer.device.type for buffer in buffers} == {"meta"}


def test_a_correction_in_two_parts_is_the_denoiser(make_mixture: Make) -> None:
    config, x = dm_config("edm"), noisy()
    denoiser = Denoiser(TinyNetwork(6), config, PriorBase(prior(make_mixture), config))
    parts = denoiser.corrected(denoiser.base(x, SIGMA, LABELS), SIGMA, LABELS)
    assert torch.equal(parts, denoiser(x, SIGMA, LABELS))


def test_a_base_alone_is_a_denoiser(make_mixture: Make) -> None:
    mixture, x = prior(make_mixture), noisy()
    denoiser = BaseDenoiser(PriorBase(mixture, dm_config("edm")))
    assert torch.equal(denoiser(x, SIGMA, LABELS), mixture.posterior_mean(x, SIGMA, LABELS))
    assert list(denoiser.parameters()) == []


@pytest.mark.parametrize("name", DM_CONFIG_NAMES)
def test_the_loss_is_the_weighted_mean_over_pixels(name: str) -> None:
    config, images = dm_config(name), noisy().clamp(-1, 1)
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(1))
    denoiser = Denoiser(TinyNetwork(2), config, SkipBase(config))
    with torch.no_grad():
        losses = denoising_loss(denoiser, images, SIGMA, noise, LABELS)
    assert losses.shape == (4,)
    for i in range(4):
        x = images[i] + SIGMA[i] * noise[i]
        estimate = denoiser(x[None], SIGMA[i : i + 1], LABELS[i : i + 1])[0].detach()
        total = sum(float(v) ** 2 for v in (estimate - images[i]).flatten())
        expected = float(config.weight(SIGMA[i])) * total / 24
        assert float(losses[i]) == pytest.approx(expected, rel=1e-4)


def test_with_edm_a_zero_network_costs_its_normalised_target() -> None:
    """D = c_skip x: the loss is ((1 - c_skip) x0 - c_skip sigma n)^2 / c_out^2, one on average."""
    config = dm_config("edm")
    network = TinyNetwork(2)
    network.forward = lambda inputs, c_noise, labels: torch.zeros_like(inputs)  # type: ignore[method-assign]
    g = torch.Generator().manual_seed(2)
    images = 2.0 * torch.rand(4000, *SHAPE, generator=g) - 1.0
    noise = torch.randn(images.shape, generator=g)
    sigma = config.quantile(torch.rand(4000, generator=g, dtype=torch.float64)).float()
    losses = denoising_loss(Denoiser(network, config, SkipBase(config)), images, sigma, noise, None)
    assert float(losses.mean()) == pytest.approx(1.0, abs=0.02)

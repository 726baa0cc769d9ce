"""Against another implementation, and on networks written elsewhere."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dpdm.networks.unet import UNet
from dpdm.privacy.gradients import clip_and_sum, per_unit_gradients, validate


def moved_off_zero(module: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return module


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")
def test_opacus_finds_the_same_gradients_and_clipped_sum():
    opacus = pytest.importorskip("opacus")
    module = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1),
        nn.GroupNorm(2, 8),
        nn.SiLU(),
        nn.Conv2d(8, 8, 3, groups=2),
        nn.Flatten(),
        nn.Linear(32, 4),
    )
    x, units, views = torch.randn(12, 3, 8, 8), 4, 3

    def loss(module, x):
        return module(x).square().sum(1)

    _, gradients = per_unit_gradients(module, loss, (x,), views=views)
    hooked = opacus.GradSampleModule(module, loss_reduction="sum")
    loss(hooked, x).sum().backward()
    by_peer = {
        name: p.grad_sample.view(units, views, *p.shape).mean(1)
        for name, p in module.named_parameters()
    }
    for name, expected in by_peer.items():
        torch.testing.assert_close(gradients[name], expected, rtol=1e-4, atol=1e-5)
    norms = torch.stack([g.flatten(1).norm(dim=1) for g in by_peer.values()]).norm(dim=0)
    bound = float(norms.median())
    found = clip_and_sum(gradients, bound)
    factors = (bound / norms).clamp(max=1.0)
    for name, expected in by_peer.items():
        total = torch.einsum("u,u...->...", factors, expected)
        torch.testing.assert_close(found.sums[name].float(), total, rtol=1e-4, atol=1e-4)


def denoise(module, x, c_noise, labels):
    return (module(x, c_noise, labels) - x).square().flatten(1).mean(1)


def test_the_papers_network(oracle):
    network = moved_off_zero(UNet(image_size=28, in_channels=1, out_channels=1, classes=10))
    assert sum(p.numel() for p in network.parameters()) == 1_753_345
    labels = torch.tensor([3, 3, -1, 9])
    oracle.check(network, torch.randn(4, 1, 28, 28), torch.randn(4), labels, views=2, loss=denoise)


def test_a_small_network_from_its_start_at_zero_on(oracle):
    network = UNet(
        image_size=8,
        in_channels=1,
        out_channels=1,
        base_channels=8,
        multipliers=(1, 2),
        attention=(4,),
        classes=10,
    ).double()
    inputs = (
        torch.randn(6, 1, 8, 8, dtype=torch.float64),
        torch.randn(6, dtype=torch.float64),
        torch.randint(10, (6,)),
    )
    validate(network, denoise, inputs, views=2)
    for _ in range(3):
        _, gradients = per_unit_gradients(network, denoise, inputs, views=2)
        _, expected = oracle.loop(network, denoise, inputs, 2)
        oracle.assert_equal(gradients, expected, 1e-10)
        moved_off_zero(network)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_diffusers_unet_unmodified(oracle, checkpointing):
    diffusers = pytest.importorskip("diffusers")
    network = diffusers.UNet2DModel(
        sample_size=8,
        in_channels=1,
        out_channels=1,
        layers_per_block=1,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=4,
    ).train()
    if checkpointing:
        network.enable_gradient_checkpointing()
    oracle.check(
        network,
        torch.randn(6, 1, 8, 8),
        torch.randint(1000, (6,)),
        views=2,
        loss=lambda m, x, t: (m(x, t).sample - x).square().flatten(1).mean(1),
    )


def test_diffusers_unet_with_cross_attention_unmodified(oracle):
    diffusers = pytest.importorskip("diffusers")
    network = diffusers.UNet2DConditionModel(
        sample_size=8,
        in_channels=2,
        out_channels=2,
        layers_per_block=1,
        block_out_channels=(8, 16),
        norm_num_groups=4,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=12,
        attention_head_dim=4,
    )
    oracle.check(
        network,
        torch.randn(6, 2, 8, 8),
        torch.randint(1000, (6,)),
        torch.randn(6, 5, 12),
        views=2,
        loss=lambda m, x, t, c: (m(x, t, c).sample - x).square().flatten(1).mean(1),
    )

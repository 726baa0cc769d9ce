"""The parts of the U-Net against their definitions."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from dpdm.networks.blocks import (
    NoiseEmbedding,
    ResidualBlock,
    SelfAttention,
    attention,
    channels_innermost,
    group_norm,
    initialise,
    resampled,
    rescaled_sum,
)


@pytest.mark.parametrize(
    ("channels", "groups"), [(32, 8), (64, 16), (96, 24), (128, 32), (256, 32), (512, 32)]
)
def test_groups_are_a_quarter_of_the_channels_and_at_most_32(channels: int, groups: int) -> None:
    norm = group_norm(channels)
    assert (norm.num_groups, norm.eps) == (groups, 1e-6)


@pytest.mark.parametrize("channels", [1, 3, 6, 10, 144, 200, 254])
def test_groups_divide_any_number_of_channels(channels: int) -> None:
    groups = group_norm(channels).num_groups
    assert channels % groups == 0
    assert 1 <= groups <= max(1, min(channels // 4, 32))


def test_down_is_the_mean_of_squares_and_up_is_a_copy() -> None:
    x = torch.arange(16.0).reshape(1, 1, 4, 4)
    down = resampled(x, "down")
    assert down.flatten().tolist() == [2.5, 4.5, 10.5, 12.5]
    assert torch.equal(resampled(down, "up"), torch.kron(down, torch.ones(1, 1, 2, 2)))
    assert resampled(x, None) is x


def test_rescaled_sum_keeps_the_variance_and_its_inputs() -> None:
    x, y = torch.randn(2, 100_000, generator=torch.Generator().manual_seed(0))
    before = x.clone()
    assert rescaled_sum(x, y).var().item() == pytest.approx(1.0, rel=0.02)
    assert torch.equal(x, before)


def test_noise_embedding_has_the_frequencies_of_ddpm() -> None:
    features = NoiseEmbedding(8)(torch.tensor([3.0]))
    angles = [3.0 * 10_000 ** (-i / 3) for i in range(4)]
    expected = [math.sin(a) for a in angles] + [math.cos(a) for a in angles]
    torch.testing.assert_close(features, torch.tensor([expected]))


def test_noise_embedding_runs_between_given_frequencies() -> None:
    frequencies = NoiseEmbedding(6, 16.0, 0.25).frequencies
    torch.testing.assert_close(frequencies, torch.tensor([16.0, 2.0, 0.25]))


@pytest.mark.parametrize("resample", ["down", "up", None])
def test_residual_block_starts_as_its_shortcut(resample: str | None) -> None:
    block = ResidualBlock(4, 4, 8, resample=resample).double()
    block.reset_parameters(torch.Generator().manual_seed(0))
    x = torch.randn(2, 4, 6, 6, dtype=torch.float64)
    shortcut = x
    if resample is not None:
        assert block.shortcut is not None
        weight = block.shortcut.weight[:, :, 0, 0]
        shortcut = torch.einsum("oc,nchw->nohw", weight, resampled(x, resample))
    out = block(x, torch.randn(2, 8, dtype=torch.float64))
    torch.testing.assert_close(out, shortcut / math.sqrt(2))


def test_residual_block_has_a_shortcut_layer_only_where_the_shape_changes() -> None:
    assert ResidualBlock(4, 4, 8).shortcut is None
    assert ResidualBlock(4, 8, 8).shortcut is not None
    assert ResidualBlock(4, 4, 8, resample="down").shortcut is not None


def test_attention_starts_as_the_identity() -> None:
    layer = SelfAttention(8)
    layer.reset_parameters(torch.Generator().manual_seed(0))
    x = torch.randn(2, 8, 3, 5)
    torch.testing.assert_close(layer(x), x / math.sqrt(2))


@pytest.mark.parametrize("tokens", [49, 600])
def test_attention_and_its_gradient_in_bfloat16(tokens: int) -> None:
    """With a gradient to take it goes another way on a CPU; both are as near as bfloat16 allows."""
    generator = torch.Generator().manual_seed(0)
    exact = [torch.randn(3, tokens, 8, generator=generator).double() for _ in range(3)]
    low = [x.bfloat16() for x in exact]

    def gradients(inputs: list[Tensor]) -> tuple[Tensor, ...]:
        own = [x.detach().requires_grad_() for x in inputs]
        found = attention(*own)
        return found, *torch.autograd.grad(found.square().sum(), own)

    expected = gradients([x.double() for x in low])
    with torch.no_grad():
        unrecorded = attention(*low)
    for found, right in zip((unrecorded, *gradients(low)), (expected[0], *expected), strict=True):
        assert found.dtype == torch.bfloat16
        error = (found.double() - right).detach()
        assert error.norm() < 0.02 * right.detach().norm()


def test_attention_commutes_with_permuting_pixels() -> None:
    layer = SelfAttention(8).double()
    x = torch.randn(2, 8, 3, 5, dtype=torch.float64)
    order = torch.randperm(15)
    shuffled = x.flatten(2)[:, :, order].reshape(x.shape)
    expected = layer(x).flatten(2)[:, :, order].reshape(x.shape)
    torch.testing.assert_close(layer(shuffled), expected)


def test_initial_variance_is_glorots_for_each_part() -> None:
    layer = torch.nn.Linear(256, 768)
    initialise(layer, torch.Generator().manual_seed(0), parts=3)
    for part in layer.weight.detach().chunk(3):
        assert part.var().item() == pytest.approx(2 / (256 + 256), rel=0.02)
        assert part.abs().max().item() <= math.sqrt(6 / (256 + 256))
    assert layer.bias.count_nonzero() == 0


def test_gain_zero_gives_exact_zero() -> None:
    layer = torch.nn.Conv2d(3, 5, 3)
    initialise(layer, None, gain=0.0)
    assert layer.weight.count_nonzero() == 0


@pytest.mark.parametrize("resample", ["up", "down"])
def test_resampling_with_channels_innermost_is_the_same(resample):
    x = torch.randn(2, 6, 4, 8).contiguous(memory_format=torch.channels_last).requires_grad_()
    found, expected = channels_innermost(x, resample), resampled(x, resample)
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found, expected)
    back = torch.randn_like(expected)
    torch.testing.assert_close(
        torch.autograd.grad(found, x, back)[0], torch.autograd.grad(expected, x, back)[0]
    )

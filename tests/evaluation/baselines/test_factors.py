"""Gradients of dense layers as factors: the same norms and sums as multiplied out."""

from __future__ import annotations

import pytest
import torch

from dpdm.evaluation.baselines.factors import factored_gradients
from dpdm.evaluation.baselines.training import losses, private_network
from dpdm.privacy import OuterProducts, clip_and_sum, per_unit_gradients


@pytest.mark.parametrize("views", [1, 3])
@pytest.mark.parametrize("name", ["lr", "mlp", "cnn"])
def test_norms_and_clipped_sums_are_those_of_whole_gradients(name, views) -> None:
    network = private_network(name, (12, 12, 1), 4, seed=0).double()
    generator = torch.Generator().manual_seed(0)
    images = torch.rand((5 * views, 1, 12, 12), generator=generator, dtype=torch.float64)
    labels = torch.randint(4, (5 * views,), generator=generator)
    whole_losses, whole = per_unit_gradients(network, losses, (images, labels), views)
    for _ in range(2):  # The first of its kind is checked in several passes.
        found_losses, found = factored_gradients(network, losses, (images, labels), views)
    assert any(isinstance(gradient, OuterProducts) for gradient in found.values())
    torch.testing.assert_close(found_losses, whole_losses)
    bound = 0.7 * float(clip_and_sum(whole, 1.0).norms.median())
    expected, got = clip_and_sum(whole, bound), clip_and_sum(found, bound)
    torch.testing.assert_close(got.norms, expected.norms, rtol=1e-10, atol=1e-12)
    assert set(got.sums) == set(expected.sums)
    for key, value in expected.sums.items():
        torch.testing.assert_close(got.sums[key], value, rtol=1e-10, atol=1e-12)
    assert all(parameter.requires_grad for parameter in network.parameters())


def test_a_layer_that_is_called_twice_is_multiplied_out() -> None:
    layer = torch.nn.Linear(6, 6)
    network = torch.nn.Sequential(layer, torch.nn.ReLU(), layer)

    def loss(module: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
        return module(x).square().sum(1)

    x = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))
    for _ in range(2):
        found = factored_gradients(network, loss, (x,), 1)[1]
    whole = per_unit_gradients(network, loss, (x,))[1]
    for name, value in whole.items():
        torch.testing.assert_close(found[name], value)

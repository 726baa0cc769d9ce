"""The rules give the same per-unit gradients with kernels as without."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from dpdm.kernels import convolution, group_norm, residual, weighted_sum
from dpdm.networks.unet import UNet
from dpdm.privacy.gradients import clip_and_sum, packing, per_unit_gradients

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
UNITS, VIEWS = 2, 2


@pytest.fixture
def kernels_are_used(monkeypatch):
    """Counts how often; on a CPU they are used by the interpreter."""
    used = []

    def counting(function):
        def counted(*arguments):
            used.append(function.__name__)
            return function(*arguments)

        return counted

    for module, names in (
        (convolution, ["weight_gradient"]),
        (group_norm, ["group_norm_forward", "group_norm_backward"]),
    ):
        for name in names:
            monkeypatch.setattr(module, name, counting(getattr(module, name)))
        monkeypatch.setattr(module, "usable", lambda *_: True)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    return used


def test_gradients_are_those_without_kernels(kernels_are_used, monkeypatch):
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.SiLU(), nn.Conv2d(16, 4, 1)]
    module = nn.Sequential(*layers, nn.Flatten())
    module = module.to(DEVICE, memory_format=torch.channels_last)
    x = torch.randn(UNITS * VIEWS, 2, 5, 5, device=DEVICE)

    def loss(module, x):
        return module(x).square().mean(1)

    losses, found = per_unit_gradients(module, loss, (x,), views=VIEWS)
    assert set(kernels_are_used) == {
        "weight_gradient",
        "group_norm_forward",
        "group_norm_backward",
    }
    for rules in (convolution, group_norm):
        monkeypatch.setattr(rules, "usable", lambda *_: False)
    expected = per_unit_gradients(module, loss, (x,), views=VIEWS)
    torch.testing.assert_close(losses, expected[0])
    torch.testing.assert_close(found, expected[1], rtol=1e-4, atol=1e-6)


def test_the_networks_gradients_and_their_sums_are_those_without_kernels(monkeypatch):
    """Of the paper's network: biases added in other places, parameters as rows, packed sums."""
    torch.manual_seed(0)
    sizes = {"base_channels": 8, "multipliers": (1, 2), "blocks": 1, "attention": (4,)}
    module = UNet(image_size=8, in_channels=2, out_channels=1, classes=3, **sizes)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, 0.0 if parameter.ndim > 1 else 0.5, 0.2)
    module = module.to(DEVICE, memory_format=torch.channels_last)
    rows = UNITS * VIEWS
    inputs = [torch.randn(rows, 2, 8, 8), torch.randn(rows), torch.tensor([0, 1, 2, -1])]
    inputs = [x.to(DEVICE) for x in inputs]

    def loss(module, *inputs):
        return module(*inputs).square().flatten(1).mean(1)

    def found():
        losses, gradients = per_unit_gradients(module, loss, inputs, views=VIEWS)
        plain = torch.autograd.grad(loss(module, *inputs).mean(), list(module.parameters()))
        return losses, gradients, plain, clip_and_sum(gradients, 1.0).sums

    def use(kernels: bool):
        for rules in (convolution, group_norm, residual):
            monkeypatch.setattr(rules, "usable", lambda *_: kernels)
        monkeypatch.setattr(weighted_sum, "usable", lambda x: kernels and x.is_contiguous())
        monkeypatch.setattr(packing, "packs", lambda _: kernels)

    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    use(False)
    expected = found()
    use(True)
    for a, b in zip(found(), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)

"""Gradients for a training: those of the objective, whichever way they are computed."""

from __future__ import annotations

import pytest
import torch

from dpdm import load_config
from dpdm.diffusion.denoiser import Denoiser
from dpdm.diffusion.objective import denoising_loss
from dpdm.privacy import per_unit_gradients
from dpdm.privacy.gradients import settled
from dpdm.release.build import build_denoiser, stand_in_prior
from dpdm.release.precision import place
from dpdm.training.differentiation import Differentiation
from dpdm.training.loop import _MeanGradients

NAMES = ("skip", "informed", "prior")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def made(base: str) -> Denoiser:
    config = load_config("digits", [f"diffusion.base={base}", "network.init=null"])
    prior = stand_in_prior(config, (1, 8, 8), 10)
    denoiser = build_denoiser(config, (1, 8, 8), 10, prior)
    assert isinstance(denoiser, Denoiser)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in denoiser.network.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return denoiser


def views(rows: int, device: str = "cpu"):
    torch.manual_seed(1)
    images = torch.rand(rows, 1, 8, 8) * 2 - 1
    found = (images, torch.rand(rows) + 0.1, torch.randn(rows, 1, 8, 8), torch.arange(rows) % 10)
    return tuple(x.to(device) for x in found)


@pytest.mark.parametrize("base", NAMES)
def test_gradients_are_those_of_the_denoising_loss(base):
    denoiser = made(base)
    losses, gradients = Differentiation(denoiser, 3)(*views(12))
    expected = per_unit_gradients(denoiser, denoising_loss, views(12), views=3)
    torch.testing.assert_close(losses, expected[0])
    torch.testing.assert_close(gradients, expected[1])


def test_calls_settle_once_every_use_has_shown_a_gradient():
    denoiser = made("skip")
    inputs = views(12)
    assert not settled(denoiser, denoising_loss, inputs, 3)
    per_unit_gradients(denoiser, denoising_loss, inputs, views=3)
    assert settled(denoiser, denoising_loss, inputs, 3)
    assert not settled(denoiser, denoising_loss, views(8), 2)


def test_a_use_that_is_still_zero_keeps_calls_open():
    denoiser = made("skip")
    with torch.no_grad():
        denoiser.network.conv_out.weight.zero_()  # nothing before it has a gradient
    per_unit_gradients(denoiser, denoising_loss, views(12), views=3)
    assert not settled(denoiser, denoising_loss, views(12), 3)


@needs_cuda
@pytest.mark.parametrize("base", NAMES)
def test_a_recorded_graph_gives_what_the_calls_give(base):
    denoiser = made(base)
    place(denoiser, torch.device("cuda"))
    differentiate = Differentiation(denoiser, 3)
    differentiate(*views(12, "cuda"))
    for scale in (1.0, 0.5):
        inputs = [x * scale if x.is_floating_point() else x for x in views(12, "cuda")]
        losses, gradients = differentiate(*inputs)
        assert differentiate._recording is not None
        expected = per_unit_gradients(denoiser, denoising_loss, inputs, views=3)
        torch.testing.assert_close(losses, expected[0])
        torch.testing.assert_close(gradients, expected[1], rtol=1e-4, atol=1e-5)
        with torch.no_grad():
            for parameter in denoiser.parameters():
                parameter.mul_(1.1)  # the graph reads the weights as they are


@needs_cuda
def test_the_mean_gradient_of_a_batch_is_that_of_plain_training():
    denoiser = made("skip")
    place(denoiser, torch.device("cuda"))
    loss, found = _MeanGradients(denoiser, denoiser.network)(*views(64, "cuda"))
    plain = denoising_loss(denoiser, *views(64, "cuda")).mean()
    torch.testing.assert_close(loss, plain.detach())
    expected = torch.autograd.grad(plain, list(denoiser.network.parameters()))
    for name, exact in zip(dict(denoiser.network.named_parameters()), expected, strict=True):
        torch.testing.assert_close(found[name], exact, rtol=1e-3, atol=1e-4)

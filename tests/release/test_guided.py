"""Samples moved to where a labeller finds their label, held against a numerical gradient."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from dpdm.diffusion.images import to_model_space
from dpdm.networks import Labeller
from dpdm.networks.labeller import BATCH
from dpdm.release.guided import SMOOTHING, guided

CPU = torch.device("cpu")


def labeller(shape: tuple[int, int, int], classes: int = 3) -> Labeller:
    found = Labeller(shape, classes).requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    found.weight.copy_(0.3 * torch.randn(found.weight.shape, generator=generator))
    return found.eval()


def images(count: int, shape: tuple[int, int, int] = (1, 8, 8)) -> np.ndarray:
    channels, height, width = shape
    return np.random.default_rng(1).integers(0, 256, (count, height, width, channels), np.uint8)


def log_likelihood(found: Labeller, x: torch.Tensor, label: int, temperature: float) -> float:
    """In float64, with the same smoothing."""
    wide = found.scattering.double()
    features = torch.cat(
        [wide(x.double(), SMOOTHING).flatten(), torch.ones(1, dtype=torch.float64)]
    )
    logits = features @ found.weight.double() / temperature
    return float(logits.log_softmax(0)[label])


def by_differences(found: Labeller, x: torch.Tensor, label: int, temperature: float):
    gradient, step = torch.zeros_like(x, dtype=torch.float64), 1e-4
    for place in np.ndindex(*x.shape):
        sides = []
        for sign in (1, -1):
            moved = x.double().clone()
            moved[place] += sign * step
            sides.append(log_likelihood(found, moved, label, temperature))
        gradient[place] = (sides[0] - sides[1]) / (2 * step)
    return gradient


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 8, 8)])
def test_a_step_is_that_of_a_numerical_gradient(shape):
    some, labels, temperature, scale = images(2, shape), np.array([2, 0]), 1.7, 0.2
    moved = guided(labeller(shape), some, labels, scale=scale, temperature=temperature, device=CPU)
    for image, label, result in zip(some, labels, moved, strict=True):
        x = to_model_space(image[None])
        expected = x + scale * by_differences(labeller(shape), x, int(label), temperature)
        found = to_model_space(result[None])
        assert torch.allclose(found.double(), expected.clamp(-1, 1), atol=0.51 / 127.5)
        assert (expected - x).abs().max() > 3 / 127.5


def test_farther_is_likelier():
    some, labels, own = images(50), np.arange(50) % 3, labeller((1, 8, 8))

    def found(scale: float) -> float:
        moved = guided(own, some, labels, scale=scale, temperature=1.0, device=CPU)
        logits = own(to_model_space(moved))
        return float(logits.log_softmax(1)[range(50), labels].mean())

    likelihoods = [found(scale) for scale in (0.0, 0.1, 0.5, 2.0)]
    assert likelihoods == sorted(likelihoods)
    assert math.exp(likelihoods[0]) < 0.5 < 0.95 < math.exp(likelihoods[-1])


def test_a_scale_of_nothing_leaves_images_as_they_are():
    some = images(5)
    how = {"temperature": 1.0, "device": CPU}
    assert np.array_equal(
        guided(labeller((1, 8, 8)), some, np.zeros(5, int), scale=0.0, **how), some
    )


def test_an_image_is_moved_alike_whatever_is_beside_it_and_progress_is_told():
    some, labels, told = images(BATCH + 3), np.arange(BATCH + 3) % 3, []
    own, how = labeller((1, 8, 8)), {"scale": 0.5, "temperature": 1.0, "device": CPU}
    moved = guided(own, some, labels, progress=lambda *a: told.append(a), **how)
    for place in (0, BATCH - 1, BATCH, BATCH + 2):
        alone = guided(own, some[place : place + 1], labels[place : place + 1], **how)
        assert np.abs(alone[0].astype(int) - moved[place]).max() <= 1
    assert told[-1] == (BATCH + 3, BATCH + 3)
    assert told == sorted(told)


def test_of_flat_images_nothing_is_lost():
    flat = np.stack([np.full((8, 8, 1), grey, np.uint8) for grey in (0, 128, 255)])
    moved = guided(
        labeller((1, 8, 8)), flat, np.array([0, 1, 2]), scale=1.0, temperature=1.0, device=CPU
    )
    assert (np.abs(moved.astype(int) - flat) < 128).mean() > 0.9


def test_the_labeller_stays_as_it_is():
    own = labeller((1, 8, 8))
    before = own.weight.clone()
    guided(own, images(4), np.zeros(4, int), scale=1.0, temperature=1.0, device=CPU)
    assert torch.equal(before, own.weight)
    assert own.weight.grad is None

"""Scattering features against their definition, and that an image's are its own alone."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.signal import convolve2d

from dpdm.networks.labeller import BATCH, Labeller
from dpdm.networks.scattering import CHANNELS, ORIENTATIONS, Scattering, _morlets


def images(count: int, channels: int, side: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(count, channels, side, side, generator=generator) * 2 - 1


def morlet(sigma: float, frequency: float, index: int, radius: int) -> np.ndarray:
    """A complex Morlet wavelet, entry by entry."""
    angle = (3 - index) * math.pi / 8
    kernel, envelope = (np.zeros((2 * radius + 1,) * 2, complex) for _ in range(2))
    for i, y in enumerate(range(-radius, radius + 1)):
        for j, x in enumerate(range(-radius, radius + 1)):
            along = x * math.cos(angle) + y * math.sin(angle)
            across = -x * math.sin(angle) + y * math.cos(angle)
            envelope[i, j] = math.exp(-(along**2 + (across / 2) ** 2) / (2 * sigma**2))
            kernel[i, j] = envelope[i, j] * np.exp(1j * frequency * along)
    return (kernel - envelope * kernel.sum() / envelope.sum()) / (4 * math.pi * sigma**2)


def gaussian_average(plane: np.ndarray, stride: int, sigma: float) -> np.ndarray:
    side = len(plane)
    rows = []
    for centre in range(0, side, stride):
        w = np.exp(-((np.arange(side) - centre) ** 2) / (2 * sigma**2))
        rows.append(w / (math.sqrt(2 * math.pi) * sigma))
    return np.array(rows) @ plane @ np.array(rows).T


def modulus(plane: np.ndarray, kernel: np.ndarray, stride: int) -> np.ndarray:
    # conv2d is a correlation: the kernel is turned round for the convolution here.
    found = np.abs(convolve2d(plane, kernel[::-1, ::-1], mode="same"))
    return found[::stride, ::stride]


def test_features_are_those_of_the_definition():
    plane = images(1, 1, 12)
    x = (plane[0, 0].double().numpy() + 1) / 2
    fine = [morlet(0.8, 3 * math.pi / 4, k, 3) for k in range(ORIENTATIONS)]
    coarse = [morlet(1.6, 3 * math.pi / 8, k, 6) for k in range(ORIENTATIONS)]
    first = [modulus(x, kernel, 1) for kernel in fine]
    maps = [gaussian_average(p, 4, 1.6) for p in (x, *first)]
    maps += [gaussian_average(modulus(x, kernel, 2), 2, 0.8) for kernel in coarse]
    maps += [gaussian_average(modulus(p, kernel, 2), 2, 0.8) for p in first for kernel in coarse]
    groups = np.array(maps).reshape(27, -1)
    groups -= groups.mean(1, keepdims=True)
    expected = groups / np.sqrt((groups**2).mean(1, keepdims=True) + 1e-5)
    found = Scattering((1, 12, 12))(plane)[0].numpy().reshape(27, -1)
    np.testing.assert_allclose(found, expected, atol=2e-3)


@pytest.mark.parametrize(
    ("shape", "places"), [((1, 28, 28), 49), ((3, 32, 32), 64), ((3, 64, 64), 64), ((1, 8, 9), 6)]
)
def test_features_have_the_size_that_is_announced(shape: tuple[int, int, int], places: int):
    module = Scattering(shape)
    assert module.features == (CHANNELS + shape[0] - 1) * places
    assert module(torch.zeros(2, *shape)).shape == (2, module.features)


def test_wavelets_see_no_brightness():
    for sigma, frequency, radius in ((0.8, 3 * math.pi / 4, 3), (1.6, 3 * math.pi / 8, 6)):
        assert _morlets(sigma, frequency, radius).sum((1, 2, 3)).abs().max() < 1e-6


def test_images_that_differ_in_colour_alone_have_different_features():
    grey = images(1, 1, 32).expand(1, 3, 32, 32)
    tinted = grey + torch.tensor([0.1, -0.1, 0.0]).view(1, 3, 1, 1)
    module = Scattering((3, 32, 32))
    plain, coloured = module(grey)[0], module(tinted)[0]
    own = CHANNELS * 64
    torch.testing.assert_close(plain[:own], coloured[:own], atol=1e-3, rtol=0)
    assert (coloured[own:] - plain[own:]).abs().max() > 0.1


def test_the_features_of_an_image_are_the_same_to_the_bit_in_any_company():
    labeller = Labeller((1, 28, 28), 10)
    one, many = images(1, 1, 28, 5), images(BATCH + 40, 1, 28, 6)
    many[BATCH + 7] = one[0]
    many[3] = one[0]
    alone, found = labeller.features(one)[0], labeller.features(many)
    assert torch.equal(alone, found[3])
    assert torch.equal(alone, found[BATCH + 7])
    assert labeller.features(one[:0]).shape == (0, labeller.scattering.features + 1)


def test_a_fresh_labeller_prefers_no_class():
    assert not Labeller((1, 8, 8), 4)(images(3, 1, 8)).any()

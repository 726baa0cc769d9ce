"""The frame of the prior against scipy's DCT."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.fft import dctn

from dpdm.diffusion.dct import DctFrame, dct_matrix, frequency_order
from dpdm.errors import RequestError

SHAPES = [(1, 8, 8), (3, 5, 4), (2, 1, 6), (4, 28, 28)]


@pytest.mark.parametrize("size", [1, 2, 7, 28])
def test_the_matrix_is_orthonormal(size: int) -> None:
    matrix = dct_matrix(size)
    torch.testing.assert_close(matrix @ matrix.T, torch.eye(size, dtype=torch.float64))


@pytest.mark.parametrize("shape", SHAPES)
def test_coefficients_are_scipys_in_the_stated_order(shape: tuple[int, int, int]) -> None:
    c, h, w = shape
    x = np.random.default_rng(0).normal(size=(3, c, h, w))
    frame = DctFrame(shape, dimension=1, dtype=torch.float64)
    ours = frame.to_coefficients(torch.from_numpy(x)).numpy()
    reference = dctn(x, axes=(1, 2, 3), norm="ortho")
    cells = [(u, v, k) for u in range(h) for v in range(w) for k in range(c)]

    def square(u: int, v: int, k: int) -> int:
        return ((u * w) ** 2 + (v * h) ** 2) * (4 if k else 1)

    cells.sort(key=lambda cell: (square(*cell), cell))
    expected = np.stack([reference[:, k, u, v] for u, v, k in cells], axis=1)
    np.testing.assert_allclose(ours, expected, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_images_come_back(shape: tuple[int, int, int]) -> None:
    x = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    frame = DctFrame(shape, dimension=1)
    torch.testing.assert_close(frame.to_images(frame.to_coefficients(x)), x, atol=1e-5, rtol=0)


def test_axes_of_colour_are_brightness_and_differences_of_channels() -> None:
    frame = DctFrame((3, 4, 4), dimension=3)
    red, green, blue = 1.0, 2.0, 4.0
    x = torch.tensor([red, green, blue]).reshape(1, 3, 1, 1).expand(1, 3, 4, 4)
    z = frame.to_coefficients(x)
    mixed = [
        (red + green + blue) / 3**0.5,
        (red - blue) / 2**0.5,
        (red - 2 * green + blue) / 6**0.5,
    ]
    torch.testing.assert_close(z[0, :3], 4.0 * torch.tensor(mixed))
    torch.testing.assert_close(z[0, 3:], torch.zeros(45), atol=1e-6, rtol=0)
    grey = frame.to_coefficients(torch.rand(1, 1, 4, 4).expand(1, 3, 4, 4))[0]
    torch.testing.assert_close(grey[torch.from_numpy(frame.axes) > 0].norm(), torch.tensor(0.0))


def test_frequencies_do_not_decrease_and_colours_count_twice() -> None:
    cells = frequency_order((2, 6, 9))
    squares = [((u / 6) ** 2 + (v / 9) ** 2) * (4 if c else 1) for c, u, v in cells]
    assert squares[:2] == [0, 0]
    assert all(b >= a - 1e-12 for a, b in itertools.pairwise(squares))
    frame = DctFrame((2, 6, 9), dimension=1)
    assert frame.axes.tolist() == [c for c, _, _ in cells]
    expected = [math.hypot(u / 6, v / 9) for _, u, v in cells]
    np.testing.assert_allclose(frame.frequencies, expected, rtol=1e-6)


@pytest.mark.parametrize("dimension", [0, 17])
def test_a_dimension_outside_the_image_is_refused(dimension: int) -> None:
    with pytest.raises(RequestError, match=rf"prior\.dimension={dimension} .* use 1 to 16"):
        DctFrame((1, 4, 4), dimension=dimension)

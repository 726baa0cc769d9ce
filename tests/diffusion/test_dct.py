"""The frame of the prior against scipy's DCT."""

from __future__ import annotations

import itertools

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
    reference = dctn(x, axes=(2, 3), norm="ortho")
    cells = [(u, v, k) for u in range(h) for v in range(w) for k in range(c)]
    cells.sort(key=lambda cell: ((cell[0] * w) ** 2 + (cell[1] * h) ** 2, cell))
    expected = np.stack([reference[:, k, u, v] for u, v, k in cells], axis=1)
    np.testing.assert_allclose(ours, expected, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES)
def test_images_come_back(shape: tuple[int, int, int]) -> None:
    x = torch.randn(2, *shape, generator=torch.Generator().manual_seed(0))
    frame = DctFrame(shape, dimension=1)
    torch.testing.assert_close(frame.to_images(frame.to_coefficients(x)), x, atol=1e-5, rtol=0)


def test_the_first_coefficients_are_the_channels_means() -> None:
    frame = DctFrame((3, 4, 4), dimension=3)
    x = torch.full((1, 3, 4, 4), 0.0) + torch.tensor([1.0, 2.0, 3.0]).reshape(1, 3, 1, 1)
    z = frame.to_coefficients(x)
    torch.testing.assert_close(z[0, :3], 4.0 * torch.tensor([1.0, 2.0, 3.0]))
    torch.testing.assert_close(z[0, 3:], torch.zeros(45), atol=1e-6, rtol=0)


def test_frequencies_do_not_decrease() -> None:
    squares = [(u / 6) ** 2 + (v / 9) ** 2 for _, u, v in frequency_order((2, 6, 9))]
    assert squares[:2] == [0, 0]
    assert all(b >= a - 1e-12 for a, b in itertools.pairwise(squares))


@pytest.mark.parametrize("dimension", [0, 17])
def test_a_dimension_outside_the_image_is_refused(dimension: int) -> None:
    with pytest.raises(RequestError, match=rf"prior\.dimension={dimension} .* use 1 to 16"):
        DctFrame((1, 4, 4), dimension=dimension)

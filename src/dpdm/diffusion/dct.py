"""The space of the prior: coefficients of the orthonormal DCT-II, lowest frequencies first.

With A_n[u, i] = sqrt((1 + [u > 0]) / n) cos(pi (2 i + 1) u / (2 n)), an axis of colour X (H, W) has
the coefficients A_H X A_W^T, and the axes are A_C times the channels: of red, green and blue that
is brightness, red less blue, and both of these less green, nearly uncorrelated in photographs. The
transform is orthonormal, so white noise of standard deviation sigma stays white noise of standard
deviation sigma.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from dpdm.errors import RequestError


def dct_matrix(size: int) -> Tensor:
    """The orthonormal DCT-II matrix, float64 (size, size); row u is frequency u."""
    frequency = torch.arange(size, dtype=torch.float64).unsqueeze(1)
    position = torch.arange(size, dtype=torch.float64).unsqueeze(0)
    matrix = torch.cos(math.pi * (2.0 * position + 1.0) * frequency / (2.0 * size))
    matrix *= math.sqrt(2.0 / size)
    matrix[0] = math.sqrt(1.0 / size)
    return matrix


_COLOUR_DETAIL = 2
"""Differences of colour are modelled to a frequency this many times lower than brightness, as image
formats store them (4:2:0): they have less energy, and least of it in detail."""


def frequency_order(image_shape: tuple[int, int, int]) -> list[tuple[int, int, int]]:
    """All (axis of colour, u, v) by (u/H)^2 + (v/W)^2, which counts ``_COLOUR_DETAIL`` squared
    times beyond the first axis; as integers, ties by u, v, then axis."""
    channels, height, width = image_shape

    def place(cell: tuple[int, int, int]) -> tuple[int, int, int, int]:
        c, u, v = cell
        square = (u * width) ** 2 + (v * height) ** 2
        return square * (_COLOUR_DETAIL**2 if c else 1), u, v, c

    cells = [(c, u, v) for u in range(height) for v in range(width) for c in range(channels)]
    return sorted(cells, key=place)


class DctFrame(nn.Module):
    """The change between images and ordered DCT coefficients: public, without parameters.

    ``image_shape`` is (C, H, W); ``size`` P = C H W coefficients, of which the first ``dimension``
    D are those a prior models. ``axes`` (P,) are their axes of colour, ``frequencies`` (P,) the
    roots of (u/H)^2 + (v/W)^2. Raises RequestError for a dimension outside 1..P.
    """

    channel_matrix: Tensor
    height_matrix: Tensor
    width_matrix: Tensor
    order: Tensor
    inverse_order: Tensor

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        dimension: int,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        channels, height, width = image_shape
        self.image_shape = (channels, height, width)
        self.size = channels * height * width
        if not 1 <= dimension <= self.size:
            raise RequestError(
                f"prior.dimension={dimension} does not fit images of {channels}x{height}x{width}: "
                f"use 1 to {self.size}"
            )
        self.dimension = dimension
        cells = torch.tensor(frequency_order(self.image_shape))
        order = (cells[:, 0] * height + cells[:, 1]) * width + cells[:, 2]
        self.axes = cells[:, 0].numpy()
        self.frequencies = torch.hypot(cells[:, 1] / height, cells[:, 2] / width).double().numpy()
        for name, value in (
            ("channel_matrix", dct_matrix(channels).to(dtype)),
            ("height_matrix", dct_matrix(height).to(dtype)),
            ("width_matrix", dct_matrix(width).to(dtype)),
            ("order", order),
            ("inverse_order", torch.argsort(order)),
        ):
            self.register_buffer(name, value, persistent=False)

    def to_coefficients(self, x: Tensor) -> Tensor:
        """Images (N, C, H, W) to coefficients (N, P)."""
        planes = self.height_matrix @ _mixed(self.channel_matrix, x) @ self.width_matrix.T
        return planes.flatten(1)[:, self.order]

    def to_images(self, z: Tensor) -> Tensor:
        """Coefficients (N, P) to images (N, C, H, W)."""
        planes = z[:, self.inverse_order].reshape(-1, *self.image_shape)
        mixed = self.height_matrix.T @ planes @ self.width_matrix
        return _mixed(self.channel_matrix.T, mixed)


def _mixed(matrix: Tensor, x: Tensor) -> Tensor:
    """Images (N, C, H, W) whose channels are ``matrix`` (C, C) times those of ``x``."""
    if len(matrix) == 1:
        return x
    return torch.einsum("kc,nchw->nkhw", matrix, x)

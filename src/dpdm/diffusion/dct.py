"""The space of the prior: coefficients of the orthonormal 2-D DCT-II, lowest frequencies first.

With A_n[u, i] = sqrt((1 + [u > 0]) / n) cos(pi (2 i + 1) u / (2 n)), a channel X (H, W) has the
coefficients A_H X A_W^T. The transform is orthonormal, so white noise of standard deviation sigma
stays white noise of standard deviation sigma.
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


def frequency_order(image_shape: tuple[int, int, int]) -> list[tuple[int, int, int]]:
    """All (channel, u, v) by (u/H)^2 + (v/W)^2, as integers; ties by u, v, then channel."""
    channels, height, width = image_shape
    cells = [(c, u, v) for u in range(height) for v in range(width) for c in range(channels)]
    return sorted(
        cells, key=lambda cuv: ((cuv[1] * width) ** 2 + (cuv[2] * height) ** 2, *cuv[1:], cuv[0])
    )


class DctFrame(nn.Module):
    """The change between images and ordered DCT coefficients: public, without parameters.

    ``image_shape`` is (C, H, W); ``size`` P = C H W coefficients, of which the first ``dimension``
    D are those a prior models. Raises RequestError for a dimension outside 1..P.
    """

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
        for name, value in (
            ("height_matrix", dct_matrix(height).to(dtype)),
            ("width_matrix", dct_matrix(width).to(dtype)),
            ("order", order),
            ("inverse_order", torch.argsort(order)),
        ):
            self.register_buffer(name, value, persistent=False)

    def to_coefficients(self, x: Tensor) -> Tensor:
        """Images (N, C, H, W) to coefficients (N, P)."""
        planes = self.height_matrix @ x @ self.width_matrix.T
        return planes.flatten(1)[:, self.order]

    def to_images(self, z: Tensor) -> Tensor:
        """Coefficients (N, P) to images (N, C, H, W)."""
        planes = z[:, self.inverse_order].reshape(-1, *self.image_shape)
        return self.height_matrix.T @ planes @ self.width_matrix

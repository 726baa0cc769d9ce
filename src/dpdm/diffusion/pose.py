"""Where a shape stands in its image, how large, slanted and bright it is: pose, and its change.

A pose is Q numbers in [-1, 1], functions of one image alone; 0 is a public default. In order, so
that each kind of normalisation takes the first ones: brightness; centre (x, y); log height, log
width, slant. Shapes are light on a dark ground: the ink of a pixel is its value from 0 to 1,
averaged over channels, and moments are weighted by ink (Hu 1962, image moments). Coordinates are
those of ``grid_sample``: -1 to 1 from edge to edge.

Everything is clamped to public ranges, so that an image without a shape (black, one pixel, noise)
has a pose and a finite picture like any other.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

POSE_SIZES: dict[str, int] = {"none": 0, "brightness": 1, "shift": 3, "affine": 6}
"""Pose parameters Q of each kind of ``prior.normalise``."""

_DARKEST = 16.0  # brightness p is log level from 1/16 to 1
_MEDIAN_SIZE, _SIZE_RATIO = 0.2, 6.0  # a size p is log standard deviation, 0.2 / 6 to 0.2 * 6
_TINY = 1e-6


def measure_pose(x: Tensor, size: int) -> Tensor:
    """Poses (N, size) of images (N, C, H, W) in [-1, 1]; ``size`` is one of ``POSE_SIZES``."""
    ink = ((x + 1.0) / 2.0).clamp(min=0.0).mean(dim=1)
    if size == 0:
        return ink.new_zeros(len(ink), 0)
    mass = ink.sum(dim=(1, 2)) + _TINY
    # The mean of ink over ink: the level of the shape, whatever its area.
    level = (ink.square().sum(dim=(1, 2)) / mass).clamp(1.0 / _DARKEST, 1.0)
    parts = [1.0 + 2.0 * level.log() / math.log(_DARKEST)]
    if size > 1:
        columns, rows = ink.sum(dim=1), ink.sum(dim=2)
        across, down = _positions(x.shape[3], x), _positions(x.shape[2], x)
        centre_x, centre_y = _moment(columns, across) / mass, _moment(rows, down) / mass
        parts += [centre_x, centre_y]
    if size > 3:
        upright = _moment(rows, down.square()) / mass - centre_y.square()
        width = _moment(columns, across.square()) / mass - centre_x.square()
        tilt = _moment(_moment(ink, across), down) / mass - centre_x * centre_y
        smallest = (_MEDIAN_SIZE / _SIZE_RATIO) ** 2
        height = upright.clamp(min=smallest)
        slant = (tilt / height).clamp(-1.0, 1.0)
        # The variance of x - slant y, also where the slant was clamped.
        width = (width - slant * (2.0 * tilt - slant * upright)).clamp(min=smallest)
        parts += [0.5 * (v.log() - 2.0 * math.log(_MEDIAN_SIZE)) for v in (height, width)]
        parts[-2:] = [p / math.log(_SIZE_RATIO) for p in parts[-2:]]
        parts.append(slant)
    return torch.stack(parts, dim=1).clamp(-1.0, 1.0)


def _moment(values: Tensor, positions: Tensor) -> Tensor:
    """(..., P), (P,) -> (...): the sum over positions, each weighted by its value.

    As a sum in itself for each image: a product of a matrix and a vector may add up another way for
    the last images of a batch, so that an image's pose would depend on its place there.
    """
    return (values * positions).sum(dim=-1)


def repose(x: Tensor, source: Tensor, target: Tensor, grid: Tensor | None = None) -> Tensor:
    """Images (N, C, H, W) of pose ``source`` (N, Q) as they look in pose ``target`` (N, Q).

    Bilinear, with the border continued. ``grid`` (N, H, W, 2), or None for the identity, says from
    which place of the result each pixel is taken: a further warp in the same interpolation. The
    result is not clamped: a brightened image may exceed 1.
    """
    size = source.shape[1]
    ink = (x + 1.0) / 2.0
    if size > 1 or grid is not None:
        if grid is None:
            grid = identity_grid(x)
        if size > 1:
            grid = _mapped(grid, source, target)
        grid = grid.expand(len(x), -1, -1, -1)
        ink = functional.grid_sample(ink, grid, padding_mode="border", align_corners=False)
    if size:
        gain = torch.exp(0.5 * math.log(_DARKEST) * (target[:, 0] - source[:, 0]))
        ink = ink * gain[:, None, None, None]
    return 2.0 * ink - 1.0


def identity_grid(x: Tensor) -> Tensor:
    """The grid (1, H, W, 2) that leaves images as they are."""
    down, across = _positions(x.shape[2], x), _positions(x.shape[3], x)
    rows, columns = torch.meshgrid(down, across, indexing="ij")
    return torch.stack([columns, rows], dim=2).unsqueeze(0)


def _positions(count: int, like: Tensor) -> Tensor:
    """Centres of pixels, (count,)."""
    return (2.0 * torch.arange(count, dtype=like.dtype, device=like.device) + 1.0) / count - 1.0


def _mapped(grid: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """Places (N, H, W, 2) in images of pose ``source`` of places ``grid`` in pose ``target``.

    With centre c, width W, height H and slant k, a shape's own coordinates u are x = cx + W ux +
    k H uy and y = cy + H uy.
    """

    def parts(pose: Tensor) -> tuple[Tensor, ...]:
        columns = pose[:, :, None, None].unbind(dim=1)
        if len(columns) == 3:
            return columns[1], columns[2], *(torch.ones_like(columns[0]),) * 2, columns[0] * 0.0
        height, width = (torch.exp(p * math.log(_SIZE_RATIO)) for p in columns[3:5])
        return columns[1], columns[2], height, width, columns[5]

    x, y, height, width, slant = parts(target)
    below = (grid[..., 1] - y) / height
    beside = (grid[..., 0] - x - slant * (grid[..., 1] - y)) / width
    x, y, height, width, slant = parts(source)
    mapped_y = height * below
    mapped_x = width * beside + slant * mapped_y
    return torch.stack([mapped_x + x, mapped_y + y], dim=3)

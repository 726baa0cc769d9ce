"""Public augmentation of synthetic images: small affine and elastic warps, contrast (Simard,
Steinkraus and Platt 2003).

What differs between images of a class in ways that everybody knows need not be learnt from private
ones. Strength 1 turns by 6 degrees, scales by 6%, shears by 0.1, moves by 2% of the image's side
and bends by 2.5% (standard deviations), and stretches contrast by up to a factor of 2.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from dpdm.diffusion.draws import normal, uniform

_TURN, _SCALE, _SHEAR, _SHIFT, _BEND, _CONTRAST = 0.1, 0.06, 0.1, 0.04, 0.05, 1.0
_KNOTS = 5
"""Points a side of the coarse grid on which an elastic warp is drawn."""


def warped_grid(
    grid: Tensor, count: int, strength: float, generator: torch.Generator | None = None
) -> Tensor:
    """``count`` random affine and elastic warps (N, H, W, 2) of an identity grid (1, H, W, 2)."""
    how = {"generator": generator, "device": grid.device}
    affine = strength * normal((count, 6), **how)  # type: ignore[arg-type]
    knots = normal((count, 2, _KNOTS, _KNOTS), **how)  # type: ignore[arg-type]
    turn, shear = _TURN * affine[:, 0], _SHEAR * affine[:, 1]
    scale = torch.exp(_SCALE * affine[:, 2:4])
    matrix = torch.stack(
        [
            torch.stack([scale[:, 0], shear - turn], dim=1),
            torch.stack([turn, scale[:, 1]], dim=1),
        ],
        dim=1,
    )
    bend = functional.interpolate(knots, grid.shape[1:3], mode="bicubic", align_corners=True)
    moved = torch.einsum("nij,hwj->nhwi", matrix, grid[0])
    moved = moved + _SHIFT * affine[:, None, None, 4:]
    return moved + strength * _BEND * bend.permute(0, 2, 3, 1)


def stretched(x: Tensor, strength: float, generator: torch.Generator | None = None) -> Tensor:
    """Images in [-1, 1] with their contrast about mid-grey stretched, by a random factor each."""
    draws = uniform((len(x), 1, 1, 1), generator=generator, device=x.device)
    return (x * (1.0 + strength * _CONTRAST * draws)).clamp(-1.0, 1.0)

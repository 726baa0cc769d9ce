"""Clipping and summing per-unit gradients, sum_u w_u g_u min(1, C / ||g_u||), without a copy.

The norm is taken over all parameters together (flat clipping) and accumulated in float64. Sums are
float64 as well, and a clip factor aims at C (1 - MARGIN): the rounding of norms, factors and sums,
some 1e-16 times the number of units, stays far below that margin, so that one unit more or less
moves the computed sum by at most C, rounding included.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from dpdm.errors import RequestError
from dpdm.kernels import weighted_sum
from dpdm.privacy.gradients.packing import OuterProducts, Packed, PerUnit

Array = npt.NDArray[np.float64]

MARGIN = 1e-6
"""How far below the bound, relative, a clipped norm aims."""

# Entries that are converted to float64 at a time, as a tile of units and entries of each. On a CPU
# they stay in the cache, and many of a unit's lie together: 560 units of 198,000 entries take 0.2 s
# (one core), and 0.5 s as few entries of all units at a time. On a GPU calls are few and large.
_TILE = 2**16
_TILE_ENTRIES = 2**14
_CUDA_TILE = 2**26
# Entries of the left factor that are converted at a time.
_CHUNK = 2**19


class Elsewhere(ABC):
    """The per-unit gradients of a microbatch that another process holds, and clips there."""

    @abstractmethod
    def clip_and_sum(self, max_norm: float, weights: Tensor | None) -> ClippedSum:
        """What the function of this name gives for them."""


class ClippedSum(NamedTuple):
    """What clipping gives: the noiseless sum and what is known privately of the units.

    Attributes:
        sums: name -> (*shape) float64, the weighted sum of clipped per-unit gradients.
        norms: (U,) float64, before clipping; infinite or NaN where a gradient is not finite.
        nonfinite: (U,) bool, units of weight above zero that counted as zero because of that.
    """

    sums: dict[str, Tensor]
    norms: Tensor
    nonfinite: Tensor


def per_unit_norms(gradients: Mapping[str, PerUnit]) -> Tensor:
    """(U,) L2 norms over all parameters, in float64.

    Not finite where an entry is not, and only there for gradients of float32 or less.
    """
    if not gradients:
        raise RequestError("there are no gradients to clip: no parameter requires one")
    parts = [
        _outer_norms(gradient) if isinstance(gradient, OuterProducts) else _norms(gradient)
        for gradient in gradients.values()
    ]
    norms: Tensor = torch.linalg.vector_norm(torch.stack(parts), dim=0)
    return norms


def clip_factors(norms: Tensor, max_norm: float) -> Tensor:
    """(U,) factors in [0, 1] that bring norms to at most ``max_norm``; 0 where one is not finite.

    Args:
        norms: (U,).
        max_norm: C > 0; infinite for no clipping.

    Raises:
        RequestError: max_norm is not above zero.
    """
    if not max_norm > 0:
        raise RequestError(
            f"max_norm={max_norm!r} must be above zero: it bounds what one unit adds"
        )
    factors = (max_norm * (1 - MARGIN) / norms).clamp(max=1.0)
    return torch.where(norms.isfinite(), factors, 0.0)


def clip_and_sum(
    gradients: Mapping[str, PerUnit] | Elsewhere, max_norm: float, weights: Tensor | None = None
) -> ClippedSum:
    """Clip each unit's gradient to ``max_norm`` and add them up.

    One unit moves the sum, as computed, by at most ``max_norm``. A unit whose gradient is not
    finite counts as zero.

    Args:
        gradients: name -> (U, *shape), as ``per_unit_gradients`` returns them, or factors of it;
            or what another process holds.
        max_norm: C > 0, the bound on the L2 norm over all parameters; infinite for no clipping.
        weights: (U,) in [0, 1], zero for units that are padding; None for all ones.

    Raises:
        RequestError: max_norm not above zero, weights of another shape or outside [0, 1].
    """
    if isinstance(gradients, Elsewhere):
        return gradients.clip_and_sum(max_norm, weights)
    packed = Packed(gradients)
    norms = per_unit_norms(packed.parts)
    factors = clip_factors(norms, max_norm)
    nonfinite = ~norms.isfinite()
    if weights is not None:
        if weights.shape != norms.shape or not bool(((weights >= 0) & (weights <= 1)).all()):
            raise RequestError(
                f"weights must be {tuple(norms.shape)} numbers in [0, 1], one for each unit: "
                "a larger weight would let a unit exceed max_norm"
            )
        factors = factors * weights
        nonfinite = nonfinite & (weights > 0)
    dropped = ~norms.isfinite()
    some = bool(dropped.any())
    sums = {
        name: _weighted_sum(gradient, factors, dropped if some else None)
        for name, gradient in packed.parts.items()
    }
    return ClippedSum(packed.by_name(sums), norms, nonfinite)


def clip_rows(vectors: Array, max_norm: float) -> Array:
    """Rows of (N, d) scaled to norm at most ``max_norm``; rows that are not finite become zero."""
    finite = np.isfinite(vectors).all(axis=1, keepdims=True)
    clipped: Array = np.where(finite, vectors, 0.0)
    if math.isinf(max_norm):
        return clipped
    norms = np.linalg.norm(clipped, axis=1, keepdims=True)
    limit = max_norm * (1.0 - MARGIN)
    clipped *= np.minimum(1.0, limit / np.maximum(norms, limit))
    return clipped


def _norms(gradient: Tensor) -> Tensor:
    """(U,) norms of one parameter's, in float64."""
    strips = _strips(gradient)
    columns = gradient.new_empty((len(strips), len(gradient)), dtype=torch.float64)
    for column, strip in zip(columns, strips, strict=True):
        for tile, some in _tiles(strip):
            column[some] = torch.linalg.vector_norm(tile, dim=1, dtype=torch.float64)
    norms: Tensor = torch.linalg.vector_norm(columns, dim=0)
    return norms


def _outer_norms(gradient: OuterProducts) -> Tensor:
    """(U,) norms: |sum_m l_m r_m^T|^2 = sum_mn (l_m . l_n) (r_m . r_n), in float64."""
    norms = list[Tensor]()
    for left, right, _ in _chunks(gradient):
        if left.shape[1] == 1:
            norms.append(left.norm(dim=(1, 2)) * right.norm(dim=(1, 2)))
        else:
            square = ((left @ left.mT) * (right @ right.mT)).sum((1, 2))
            norms.append(square.clamp(min=0.0).sqrt())
    return torch.cat(norms)


def _chunks(gradient: OuterProducts) -> Iterator[tuple[Tensor, Tensor, slice]]:
    """Factors of some units at a time, in float64, and which units these are."""
    left, right = gradient
    units = max(1, _CHUNK // left[:1].numel())
    for start in range(0, len(left), units):
        some = slice(start, start + units)
        yield left[some].double(), right[some].double(), some


def _weighted_sum(gradient: PerUnit, factors: Tensor, dropped: Tensor | None) -> Tensor:
    if isinstance(gradient, OuterProducts):
        if dropped is not None:
            gradient = OuterProducts(*(f.masked_fill(dropped.view(-1, 1, 1), 0) for f in gradient))
        total = factors.new_zeros(gradient.left.shape[2], gradient.right.shape[2])
        for left, right, some in _chunks(gradient):
            weighted = right * factors[some].view(-1, 1, 1)
            total += left.flatten(0, 1).T @ weighted.flatten(0, 1)
        return total
    if gradient.ndim == 2 and weighted_sum.usable(gradient):
        # Rows that are not finite have a factor of zero, which drops them.
        return weighted_sum.weighted_sum(gradient, factors)
    sums = []
    for strip in _strips(gradient):
        total = factors.new_zeros(strip.shape[1])
        for tile, some in _tiles(strip):
            if dropped is not None:  # zero times NaN is NaN
                tile = tile.masked_fill(dropped[some].unsqueeze(1), 0.0)
            total.addmv_(tile.double().t(), factors[some])
        sums.append(total)
    return torch.cat(sums).view(gradient.shape[1:])


def _strips(gradient: Tensor) -> tuple[Tensor, ...]:
    """(U, *shape) -> (U, entries), as many entries at a time as a tile is wide."""
    rows = gradient.reshape(len(gradient), -1)  # one entry for a parameter that is a number
    wide = max(1, _CUDA_TILE // len(rows)) if rows.is_cuda else _TILE_ENTRIES
    return torch.split(rows, wide, dim=1)


def _tiles(strip: Tensor) -> Iterator[tuple[Tensor, slice]]:
    """Some units of (U, entries) at a time, and which they are; on a GPU all of them."""
    units, entries = strip.shape
    tall = units if strip.is_cuda else max(1, _TILE // max(1, entries))
    for start in range(0, units, tall):
        some = slice(start, start + tall)
        yield strip[some], some

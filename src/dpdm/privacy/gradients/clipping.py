"""Clipping and summing per-unit gradients, sum_u w_u g_u min(1, C / ||g_u||), without a copy.

The norm is taken over all parameters together (flat clipping) and accumulated in float64. A clip
factor aims at C (1 - MARGIN), so that no rounding can let a unit contribute more than C: the factor
and its products with float32 entries are each off by at most 2^-24 = 6e-8, relative, and the
float64 norm by far less; together less than MARGIN.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from dpdm.errors import RequestError

MARGIN = 1e-6
"""How far below the bound, relative, a clipped norm aims."""

# Entries that are converted to float64 at a time: they stay in the cache (2 to 3 times as fast).
_CHUNK = 2**19


class ClippedSum(NamedTuple):
    """What clipping gives: the noiseless sum and what is known privately of the units.

    Attributes:
        sums: name -> (*shape), the weighted sum of clipped per-unit gradients.
        norms: (U,) float64, before clipping; infinite or NaN where a gradient is not finite.
        nonfinite: (U,) bool, units of weight above zero that counted as zero because of that.
    """

    sums: dict[str, Tensor]
    norms: Tensor
    nonfinite: Tensor


def per_unit_norms(gradients: Mapping[str, Tensor]) -> Tensor:
    """(U,) L2 norms over all parameters, in float64.

    Not finite where an entry is not, and only there for gradients of float32 or less.
    """
    if not gradients:
        raise RequestError("there are no gradients to clip: no parameter requires one")
    parts = [
        torch.linalg.vector_norm(part, dim=1, dtype=torch.float64)
        for gradient in gradients.values()
        for part in torch.split(_rows(gradient), max(1, _CHUNK // len(gradient)), dim=1)
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
    gradients: Mapping[str, Tensor], max_norm: float, weights: Tensor | None = None
) -> ClippedSum:
    """Clip each unit's gradient to ``max_norm`` and add them up.

    Without its rounding (of the order of the sum's own, relative 1e-7), one unit moves the sum by
    at most ``max_norm``. A unit whose gradient is not finite counts as zero.

    Args:
        gradients: name -> (U, *shape), as ``per_unit_gradients`` returns them.
        max_norm: C > 0, the bound on the L2 norm over all parameters; infinite for no clipping.
        weights: (U,) in [0, 1], zero for units that are padding; None for all ones.

    Raises:
        RequestError: max_norm not above zero, weights of another shape or outside [0, 1].
    """
    norms = per_unit_norms(gradients)
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
        for name, gradient in gradients.items()
    }
    return ClippedSum(sums, norms, nonfinite)


def _weighted_sum(gradient: Tensor, factors: Tensor, dropped: Tensor | None) -> Tensor:
    rows = _rows(gradient)
    if rows.dtype.itemsize < 4:
        rows = rows.float()
    if dropped is not None:  # zero times NaN is NaN
        rows = rows.masked_fill(dropped.unsqueeze(1), 0.0)
    return torch.mv(rows.t(), factors.to(rows.dtype)).view(gradient.shape[1:])


def _rows(gradient: Tensor) -> Tensor:
    """(U, *shape) -> (U, entries), one entry for a parameter that is a number."""
    return gradient.reshape(len(gradient), -1)

"""What a residual block does to a map between convolutions, each in one pass over it, on a GPU.

Torch's own functions take a pass each for bias, normalisation, swish, sum and factor, and in the
backward direction one more for every sum over positions. Parameters come as rows, one for each
image, so that a gradient of parameters is a sum over rows whoever takes it.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from dpdm.kernels.group_norm import group_norm_backward, group_norm_forward
from dpdm.kernels.launching import device_of, innermost, tile

RESCALE = math.sqrt(0.5)
"""Keeps the variance of a sum of two independent signals."""


def norm_swish(
    x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float, shift: Tensor | None = None
) -> Tensor:
    """swish(group_norm(x + shift)) of maps for which ``group_norm.usable(x, groups)`` holds.

    Args:
        x: (N, C, H, W), channels innermost.
        groups: as in ``torch.nn.functional.group_norm``, likewise ``eps``.
        weight: (N, C), for each row; ``bias`` and, where there is one, ``shift`` likewise.
    """
    found: Tensor = _NormSwish.apply(x, groups, weight, bias, eps, shift)  # type: ignore[no-untyped-call]
    return found


def usable(x: Tensor) -> bool:
    """Whether the kernels take x, up to what ``group_norm`` and ``joins`` ask besides."""
    return innermost(x)


def joins(x: Tensor, y: Tensor) -> bool:
    """Whether ``rescaled_sum`` takes these maps."""
    return usable(x) and usable(y) and x.shape == y.shape and x.dtype == y.dtype


def rescaled_sum(x: Tensor, y: Tensor, shift: Tensor) -> Tensor:
    """(x + y + shift) / sqrt(2) of maps (N, C, H, W) for which ``joins`` holds; shift (N, C)."""
    found: Tensor = _RescaledSum.apply(x, y, shift)  # type: ignore[no-untyped-call]
    return found


class _NormSwish(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        groups: int,
        weight: Tensor,
        bias: Tensor,
        eps: float,
        shift: Tensor | None,
    ) -> Tensor:
        y, mean, rstd = group_norm_forward(x, groups, weight, bias, eps, shift, swish=True)
        ctx.save_for_backward(x, mean, rstd, weight, bias, shift)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, rstd, weight, bias, shift = ctx.saved_tensors
        dx, dw, db, dshift = group_norm_backward(g, x, mean, rstd, weight, bias, shift, swish=True)
        return dx, None, dw, db, None, dshift


class _RescaledSum(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, shift: Tensor) -> Tensor:
        from dpdm.kernels._triton_residual import sum_forward_kernel

        found = torch.empty_like(x, memory_format=torch.channels_last)
        with device_of(x):
            sum_forward_kernel[(len(x),)](
                x,
                y,
                shift.contiguous(),
                found,
                x[0, 0].numel(),
                RESCALE,
                **tile(x.shape[1], warps=8),
            )
        return found

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        from dpdm.kernels._triton_residual import sum_backward_kernel

        g = g.contiguous(memory_format=torch.channels_last)
        found = torch.empty_like(g, memory_format=torch.channels_last)
        dshift = g.new_empty(g.shape[:2], dtype=torch.float32)
        with device_of(g):
            sum_backward_kernel[(len(g),)](
                g, found, dshift, g[0, 0].numel(), RESCALE, **tile(g.shape[1], warps=8)
            )
        return found, found, dshift

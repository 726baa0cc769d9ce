"""GroupNorm of channels-last maps on a GPU, with the parameters' gradients row by row.

torch's own kernels want channels outermost and would have every map turned there and back. These
read maps where they lie, whatever their precision, and calculate in float32; a row's results
depend on that row alone.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dpdm.kernels.launching import device_of, innermost, tile

_MOST_CHANNELS = 1024
_MOST_ENTRIES = 2**31
"""Of one row, within which the kernels count in 32 bits."""
_LARGE_ROW = 2**14
"""Entries beyond which few rows at a time must share a multiprocessor to stay in its cache."""


def usable(x: Tensor, groups: int) -> bool:
    """Whether the kernels take x: channels-last maps on a GPU, with 2^k channels a group."""
    if not innermost(x):
        return False
    channels, positions = x.shape[1], x.shape[2] * x.shape[3]
    per_group = channels // groups
    return (
        1 < channels <= _MOST_CHANNELS
        and positions > 1
        and channels * positions < _MOST_ENTRIES
        and per_group * groups == channels
        and per_group & (per_group - 1) == 0
    )


def group_norm_forward(
    x: Tensor,
    groups: int,
    weight: Tensor | None,
    bias: Tensor | None,
    eps: float,
    shift: Tensor | None = None,
    swish: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """The normalised maps, like x, and (N, groups) float32 means and reciprocal deviations.

    Args:
        x: (N, C, H, W), for which ``usable(x, groups)`` holds.
        groups: as in ``torch.nn.functional.group_norm``, likewise ``eps``.
        weight: (C,), or (N, C) for rows with weights of their own, or None; ``bias`` likewise.
        shift: (N, C), added to x first, or None.
        swish: of y, return y sigmoid(y).
    """
    from dpdm.kernels._triton_group_norm import group_norm_forward_kernel

    rows, channels, height, width = x.shape
    y = torch.empty_like(x, memory_format=torch.channels_last)
    mean = x.new_empty((rows, groups), dtype=torch.float32)
    rstd = torch.empty_like(mean)
    weight, bias, stride = _parameters(rows, weight, bias)
    with device_of(x):
        group_norm_forward_kernel[(rows,)](
            x,
            _dense(shift),
            weight,
            bias,
            y,
            mean,
            rstd,
            height * width,
            stride,
            eps,
            PER_GROUP=channels // groups,
            SWISH=swish,
            **_given(shift, weight, bias),
            **_launch(channels, height * width),
        )
    return y, mean, rstd


def group_norm_backward(
    g: Tensor,
    x: Tensor,
    mean: Tensor,
    rstd: Tensor,
    weight: Tensor | None,
    bias: Tensor | None = None,
    shift: Tensor | None = None,
    swish: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """The gradient of x, like x, and (N, C) float32 gradients of weight, bias and, where there is
    one, shift, for each row.

    Args:
        g: (N, C, H, W), the gradient of y; copied where its channels do not lie innermost.
        x: as given to ``group_norm_forward``, likewise ``weight``, ``shift`` and ``swish``.
        mean: as returned by it, likewise ``rstd``.
        bias: as given to it; needed with ``swish``.
    """
    from dpdm.kernels._triton_group_norm import group_norm_backward_kernel

    rows, channels, height, width = x.shape
    dx = torch.empty_like(x, memory_format=torch.channels_last)
    dw_rows = x.new_empty((rows, channels), dtype=torch.float32)
    db_rows = torch.empty_like(dw_rows)
    dshift = None if shift is None else torch.empty_like(dw_rows)
    weight, bias, stride = _parameters(rows, weight, bias)
    with device_of(x):
        group_norm_backward_kernel[(rows,)](
            g.contiguous(memory_format=torch.channels_last),
            x,
            _dense(shift),
            _dense(mean),
            _dense(rstd),
            weight,
            bias,
            dx,
            dshift,
            dw_rows,
            db_rows,
            height * width,
            stride,
            PER_GROUP=channels // mean.shape[1],
            SWISH=swish,
            **_given(shift, weight, bias),
            **_launch(channels, height * width),
        )
    return dx, dw_rows, db_rows, dshift


def _dense(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.contiguous()


def _parameters(
    rows: int, weight: Tensor | None, bias: Tensor | None
) -> tuple[Tensor | None, Tensor | None, int]:
    """Both with dense channels, and from one row's to the next: 0 where rows share them."""
    weight, bias = (None if p is None else p.expand(rows, -1) for p in (weight, bias))
    given = [p for p in (weight, bias) if p is not None]
    if all(p.stride() == (0, 1) for p in given):
        return weight, bias, 0
    return _dense(weight), _dense(bias), given[0].shape[1]


def _given(shift: Tensor | None, weight: Tensor | None, bias: Tensor | None) -> dict[str, bool]:
    return {
        "HAS_SHIFT": shift is not None,
        "HAS_WEIGHT": weight is not None,
        "HAS_BIAS": bias is not None,
    }


def _launch(channels: int, positions: int) -> dict[str, int]:
    """A program's tile and threads.

    Every pass after the first finds its row in the cache if the rows in progress fit there; so
    large rows have large programs, of which few are in progress, and small rows the reverse.
    """
    return tile(channels, warps=16 if channels * positions > _LARGE_ROW else 8)

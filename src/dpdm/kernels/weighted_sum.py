"""Sums of float32 rows with float64 weights, in float64, on a GPU.

torch would make a float64 copy of all rows first.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch import Tensor

from dpdm.kernels.convolution import triton_is_there

_BLOCK = 512


def usable(rows: Tensor) -> bool:
    """Whether ``weighted_sum`` takes these rows: float32, on a GPU."""
    return rows.is_cuda and rows.dtype == torch.float32 and triton_is_there()


def weighted_sum(rows: Tensor, factors: Tensor) -> Tensor:
    """sum_u factors_u rows_u, (P,) float64, of rows (U, P) and factors (U,) float64.

    A row whose factor is zero counts as zero, whatever it holds.
    """
    from dpdm.kernels._triton_weighted_sum import weighted_sum_kernel

    rows, size = rows.contiguous(), rows.shape[1]
    total = factors.new_empty(size)
    with torch.cuda.device(rows.device) if rows.is_cuda else nullcontext():
        weighted_sum_kernel[(-(-size // _BLOCK),)](
            rows, factors.contiguous(), total, len(rows), size, BLOCK=_BLOCK, num_warps=4
        )
    return total

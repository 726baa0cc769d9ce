"""sum_u w_u x_u of rows in float32 with weights and sums in float64, in one pass on a GPU.

torch would first write every row in float64, which takes three times as long as reading it. A
program has a strip of entries and some of the rows, which it adds in their order; what the programs
of a strip found is added afterwards, so that the result is the same in every run.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dpdm.kernels.launching import device_of, triton_is_there

_ROWS = 64
"""Of a program: few rows give enough programs, many keep what is left to add small."""


def usable(rows: Tensor) -> bool:
    """Whether ``weighted_sum`` takes these rows: dense float32 on a GPU."""
    return (
        rows.is_cuda and rows.dtype == torch.float32 and rows.is_contiguous() and triton_is_there()
    )


def weighted_sum(rows: Tensor, weights: Tensor) -> Tensor:
    """(E,) float64 of rows (U, E) float32 and weights (U,) float64.

    A row of weight 0 is not read into the sum, whatever it holds.
    """
    from dpdm.kernels._triton_weighted_sum import weighted_sum_kernel

    count, entries = rows.shape
    parts = -(-count // _ROWS)
    found = rows.new_empty((parts, entries), dtype=torch.float64)
    block = 512
    with device_of(rows):
        weighted_sum_kernel[(-(-entries // block), parts)](
            rows,
            weights.contiguous(),
            found,
            count,
            entries,
            ROWS=_ROWS,
            BLOCK_U=8,
            BLOCK_E=block,
            num_warps=4,
        )
    return found[0] if parts == 1 else found.sum(0)

"""Weight gradients of convolutions, unit by unit, in one kernel on a GPU.

dW_u[o, i, t] = sum over the rows and positions p of unit u of g[o, p] x[i, p moved by tap t]: for
each unit and tap a matrix product whose operands are read where they lie, so that no patch is
unfolded and no unit becomes a group. Matrix units take the operands in the precision they have
(float32 as torch's convolutions do, see ``torch.backends.cudnn.allow_tf32``) and add up in float32;
a program sums one unit's products alone, in a fixed order.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dpdm.kernels.launching import PRECISIONS, device_of, triton_is_there

_PLACES = {(64, 64): (32, 4), (32, 32): (128, 2)}
"""Places summed over at a time and stages of loads in flight, by channels in and out of a program:
the fastest of those tried on an H100 in bfloat16 (512 units of 8 rows, 28x28 and 7x7)."""
_MOST_ENTRIES = 2**31
"""Of a unit's images, which the kernel counts in 32 bits."""


def usable(x: Tensor, g: Tensor, kernel: Sequence[int], groups: int, units: int) -> bool:
    """Whether ``weight_gradient`` takes this convolution: two dimensions, one group, on a GPU."""
    return (
        x.is_cuda
        and len(kernel) == 2
        and groups == 1
        and x.dtype in PRECISIONS
        and g.dtype == x.dtype
        and max(x.numel(), g.numel()) // units < _MOST_ENTRIES
        and triton_is_there()
    )


def weight_gradient(
    x: Tensor,
    g: Tensor,
    units: int,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
) -> Tensor:
    """(U, C_out, C_in, *kernel) float32, the gradient of each unit's part of sum g * conv(x).

    Dense, with the input channels innermost: a copy would take as long as the sum over units.

    Args:
        x: (U R, C_in, H, W), inputs; read in place where its channels lie innermost.
        g: (U R, C_out, H', W'), of the dtype of x: gradients of the outputs.
        units: U.
        kernel: height and width of the weight; ``stride``, ``padding`` and ``dilation`` likewise.
    """
    from dpdm.kernels._triton_convolution import weight_gradient_kernel

    x_last, g_last = (t.permute(0, 2, 3, 1).contiguous() for t in (x, g))
    height, width, channels_in = x_last.shape[1:]
    out_height, out_width, channels_out = g_last.shape[1:]
    most = 32 if x.dtype == torch.float32 else 64  # three sums of 64 by 64 need matrix units
    block_in, block_out = (_block(channels, most) for channels in (channels_in, channels_out))
    three = kernel[1] == 3
    block, stages = _PLACES.get((block_in, block_out), (64, 3))
    dw = x.new_empty((units, channels_out, *kernel, channels_in), dtype=torch.float32)
    grid = (
        units * kernel[0] * (1 if three else kernel[1]),
        -(-channels_in // block_in),
        -(-channels_out // block_out),
    )
    with device_of(x):
        weight_gradient_kernel[grid](
            x_last,
            g_last,
            dw,
            len(x) // units,
            height,
            width,
            channels_in,
            channels_out,
            *stride,
            *padding,
            *dilation,
            POSITIONS=out_height * out_width,
            WIDTH=out_width,
            TAPS_Y=kernel[0],
            TAPS_X=kernel[1],
            THREE=three,
            BLOCK=block,
            BLOCK_IN=block_in,
            BLOCK_OUT=block_out,
            PRECISION="tf32" if torch.backends.cudnn.allow_tf32 else "ieee",
            num_warps=4,
            num_stages=stages,
        )
    return dw.permute(0, 1, 4, 2, 3)


def _block(channels: int, most: int) -> int:
    """Channels of a program: matrix units take at least 16."""
    if channels <= 16:
        return 16
    return most if channels % most == 0 else 32

"""What the callers of kernels share: where Triton can be used, and on which device it launches."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor

PRECISIONS = (torch.bfloat16, torch.float16, torch.float32)
"""What kernels take."""


@cache
def triton_is_there() -> bool:
    """Whether Triton is installed; torch brings it along where it is built for CUDA."""
    return find_spec("triton") is not None


def innermost(x: Tensor) -> bool:
    """Whether kernels can be used for x: maps (N, C, H, W) on a GPU, channels innermost."""
    return (
        x.is_cuda
        and x.ndim == 4
        and x.dtype in PRECISIONS
        and x.is_contiguous(memory_format=torch.channels_last)
        and triton_is_there()
    )


def tile(channels: int, warps: int) -> dict[str, int]:
    """Of a program that passes over a row's positions and channels: 16 entries a thread."""
    block_c = 1 << (channels - 1).bit_length()
    return {
        "CHANNELS": channels,
        "BLOCK_P": max(1, 16 * 32 * warps // block_c),
        "BLOCK_C": block_c,
        "num_warps": warps,
    }


def device_of(x: Tensor) -> AbstractContextManager[object]:
    """Triton launches on the current device, wherever its arguments are."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()

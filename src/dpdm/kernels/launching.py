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


def device_of(x: Tensor) -> AbstractContextManager[object]:
    """Triton launches on the current device, wherever its arguments are."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()

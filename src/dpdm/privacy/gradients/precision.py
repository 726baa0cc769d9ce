"""Autocast, done where the rules replace what autocast would have seen.

Within autocast a matrix product casts its operands to the low precision, and so does a rule. The
per-unit weight gradient is contracted in the parameter's own precision, so that per-unit gradients,
norms and sums are float32.
"""

from __future__ import annotations

import torch
from torch import Tensor


def as_autocast(x: Tensor) -> Tensor:
    """x in the precision in which autocast, if active, would have a matrix product take it."""
    kind = x.device.type
    if torch.is_autocast_enabled(kind) and x.is_floating_point() and x.dtype != torch.float64:
        return x.to(torch.get_autocast_dtype(kind))
    return x

"""Autocast, done where the rules replace what autocast would have seen.

Within autocast a matrix product casts its operands to the low precision, and so does a rule, its
weight gradient included: products of rounded operands are added up in float32 by the kernel and
rounded once, as in autocast's own backward. From there on per-unit gradients are held in the
parameter's precision; norms and sums are float64.
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

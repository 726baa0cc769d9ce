"""Conditioning a denoiser on labels, with classifier-free guidance (Ho and Salimans 2021).

D_w(x; sigma, y) = D(x; sigma) + (1 + w) (D(x; sigma, y) - D(x; sigma)), as in DPDM: w = 0 is the
conditional model itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from dpdm.errors import RequestError

Conditioned = Callable[[Tensor, Tensor], Tensor]


def condition(
    denoiser: Callable[..., Tensor], labels: Tensor | None, guidance: float = 0.0
) -> Conditioned:
    """The denoiser with its labels fixed: a callable of (x (N, C, H, W), sigma (N,)).

    ``labels`` is (N,) or None for a model without classes. ``guidance`` w = 0 costs one evaluation,
    any other w one evaluation of a doubled batch, half of it with label -1. Raises RequestError for
    guidance without labels.
    """
    if not math.isfinite(guidance):
        raise RequestError(f"sampling.guidance={guidance} is not a finite number; use 0 for none")
    if guidance == 0.0:
        return lambda x, sigma: denoiser(x, sigma, labels)
    if labels is None:
        raise RequestError(
            f"sampling.guidance={guidance} needs a model with classes and this one has none; use 0"
        )
    both = torch.cat([labels, torch.full_like(labels, -1)])

    def guided(x: Tensor, sigma: Tensor) -> Tensor:
        estimates = denoiser(torch.cat([x, x]), torch.cat([sigma, sigma]), both)
        conditional, unconditional = estimates.chunk(2)
        return unconditional + (1.0 + guidance) * (conditional - unconditional)

    return guided

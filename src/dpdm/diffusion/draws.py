"""Random draws that live on one device and may be seeded on another."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Device = torch.device | str | None


def _source(generator: torch.Generator | None, device: Device) -> Device:
    return generator.device if generator is not None else device


def normal(
    shape: Sequence[int],
    *,
    generator: torch.Generator | None = None,
    device: Device = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Standard normal draws, made where the generator lives, then moved to ``device``."""
    source = _source(generator, device)
    return torch.randn(*shape, generator=generator, device=source, dtype=dtype).to(device)


def uniform(
    shape: Sequence[int],
    *,
    generator: torch.Generator | None = None,
    device: Device = None,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Uniform draws on [0, 1), made where the generator lives, then moved to ``device``."""
    source = _source(generator, device)
    return torch.rand(*shape, generator=generator, device=source, dtype=dtype).to(device)

"""The Triton kernels of ``residual.py``, imported only where Triton is at hand.

Maps are (N, positions, CHANNELS), dense; a program has one row.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["positions"])  # type: ignore[untyped-decorator, unused-ignore]
def sum_forward_kernel(  # type: ignore[no-untyped-def]
    x,
    y,
    shift,
    found,
    positions,
    factor,
    CHANNELS: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    """found = (x + y + shift) factor."""
    row = tl.program_id(0).to(tl.int64)
    first = row * positions * CHANNELS
    channel = tl.arange(0, BLOCK_C)
    known = channel < CHANNELS
    place = tl.arange(0, BLOCK_P)
    shift_c = tl.load(shift + row * CHANNELS + channel, mask=known, other=0.0).to(tl.float32)
    for start in range(0, positions, BLOCK_P):
        position = start + place
        inside = (position < positions)[:, None] & known[None, :]
        at = first + position[:, None] * CHANNELS + channel[None, :]
        total = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
        total += tl.load(y + at, mask=inside, other=0.0).to(tl.float32)
        total = (total + shift_c[None, :]) * factor
        tl.store(found + at, total.to(found.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["positions"])  # type: ignore[untyped-decorator, unused-ignore]
def sum_backward_kernel(  # type: ignore[no-untyped-def]
    g,
    found,
    dshift,
    positions,
    factor,
    CHANNELS: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
) -> None:
    """found = g factor, and dshift its sum over positions."""
    row = tl.program_id(0).to(tl.int64)
    first = row * positions * CHANNELS
    channel = tl.arange(0, BLOCK_C)
    known = channel < CHANNELS
    place = tl.arange(0, BLOCK_P)
    total = tl.zeros([BLOCK_P, BLOCK_C], dtype=tl.float32)
    for start in range(0, positions, BLOCK_P):
        position = start + place
        inside = (position < positions)[:, None] & known[None, :]
        at = first + position[:, None] * CHANNELS + channel[None, :]
        own = tl.load(g + at, mask=inside, other=0.0).to(tl.float32) * factor
        total += own
        tl.store(found + at, own.to(found.dtype.element_ty), mask=inside)
    tl.store(dshift + row * CHANNELS + channel, tl.sum(total, axis=0), mask=known)

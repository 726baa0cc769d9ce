"""The Triton kernel of ``weighted_sum.py``, imported only where Triton is at hand."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["count"])  # type: ignore[untyped-decorator, unused-ignore]
def weighted_sum_kernel(  # type: ignore[no-untyped-def]
    rows,
    weights,
    found,
    count,
    entries,
    ROWS: tl.constexpr,
    BLOCK_U: tl.constexpr,
    BLOCK_E: tl.constexpr,
) -> None:
    """found[part, e] = sum of weights[u] rows[u, e] over the ROWS rows u of the part."""
    entry = tl.program_id(0) * BLOCK_E + tl.arange(0, BLOCK_E)
    part = tl.program_id(1)
    known = entry < entries
    total = tl.zeros([BLOCK_E], dtype=tl.float64)
    for start in range(0, ROWS, BLOCK_U):
        row = part * ROWS + start + tl.arange(0, BLOCK_U)
        weight = tl.load(weights + row, mask=row < count, other=0.0)
        counts = (weight != 0.0)[:, None] & known[None, :]
        at = row.to(tl.int64)[:, None] * entries + entry[None, :]
        own = tl.load(rows + at, mask=counts, other=0.0).to(tl.float64)
        total += tl.sum(own * weight[:, None], axis=0)
    tl.store(found + part.to(tl.int64) * entries + entry, total, mask=known)

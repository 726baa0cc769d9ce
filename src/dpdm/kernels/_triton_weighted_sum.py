"""The Triton kernel of ``weighted_sum.py``, imported only where Triton is at hand."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["count", "size"])  # type: ignore[untyped-decorator, unused-ignore]
def weighted_sum_kernel(rows, factors, total, count, size, BLOCK: tl.constexpr) -> None:  # type: ignore[no-untyped-def]
    """total[p] = sum_u factors[u] rows[u, p] in float64; a row of factor zero counts as zero."""
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    known = place < size
    found = tl.zeros((BLOCK,), dtype=tl.float64)
    start = rows
    for unit in range(0, count):
        factor = tl.load(factors + unit)
        value = tl.load(start + place, mask=known, other=0.0).to(tl.float64) * factor
        found += tl.where(factor == 0.0, 0.0, value)
        start += size
    tl.store(total + place, found, mask=known)

"""The Triton kernels of ``group_norm.py``, imported only where Triton is at hand.

Each program has one row to itself, adds up in a fixed order and writes to that row's places alone.
Maps are (N, positions, CHANNELS), dense. CHANNELS is a constant so that loads are known to be
aligned; positions is not specialised on, so that maps of many sizes share one compilation.
Arguments other than constants have no annotation: the compiler, unlike the interpreter, looks up
what an annotation names and refuses what is not Triton's.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _over_group(values, PER_GROUP: tl.constexpr, BLOCK_C: tl.constexpr):  # type: ignore[no-untyped-def]
    """At every channel, the sum of values over the channels of its group."""
    parts: tl.constexpr = BLOCK_C // PER_GROUP
    totals = tl.sum(tl.reshape(values, [parts, PER_GROUP]), axis=1)
    return tl.reshape(tl.broadcast_to(totals[:, None], [parts, PER_GROUP]), [BLOCK_C])


@triton.jit(do_not_specialize=["positions"])  # type: ignore[untyped-decorator, unused-ignore]
def group_norm_forward_kernel(  # type: ignore[no-untyped-def]
    x,
    weight,
    bias,
    y,
    mean,
    rstd,
    positions,
    eps,
    CHANNELS: tl.constexpr,
    PER_GROUP: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    x += row * positions * CHANNELS
    y += row * positions * CHANNELS
    channel = tl.arange(0, BLOCK_C)
    known = channel < CHANNELS
    place = tl.arange(0, BLOCK_P)
    size = (positions * PER_GROUP).to(tl.float32)

    total = tl.zeros([BLOCK_P, BLOCK_C], dtype=tl.float32)
    for start in range(0, positions, BLOCK_P):
        position = start + place
        inside = (position < positions)[:, None] & known[None, :]
        at = position[:, None] * CHANNELS + channel[None, :]
        total += tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
    mean_c = _over_group(tl.sum(total, axis=0), PER_GROUP, BLOCK_C) / size

    # A second pass over the row: E[x^2] - E[x]^2 would cancel where the mean is large.
    squares = tl.zeros([BLOCK_P, BLOCK_C], dtype=tl.float32)
    for start in range(0, positions, BLOCK_P):
        position = start + place
        inside = (position < positions)[:, None] & known[None, :]
        at = position[:, None] * CHANNELS + channel[None, :]
        deviation = tl.load(x + at, mask=inside, other=0.0).to(tl.float32) - mean_c[None, :]
        squares += tl.where(inside, deviation * deviation, 0.0)
    variance_c = _over_group(tl.sum(squares, axis=0), PER_GROUP, BLOCK_C) / size
    rstd_c = tl.rsqrt(variance_c + eps)

    statistic = row * (CHANNELS // PER_GROUP) + channel // PER_GROUP
    first_of_group = known & (channel % PER_GROUP == 0)
    tl.store(mean + statistic, mean_c, mask=first_of_group)
    tl.store(rstd + statistic, rstd_c, mask=first_of_group)

    scale = rstd_c
    if HAS_WEIGHT:
        scale = scale * tl.load(weight + channel, mask=known, other=0.0).to(tl.float32)
    for start in range(0, positions, BLOCK_P):
        position = start + place
        inside = (position < positions)[:, None] & known[None, :]
        at = position[:, None] * CHANNELS + channel[None, :]
        deviation = tl.load(x + at, mask=inside, other=0.0).to(tl.float32) - mean_c[None, :]
        found = deviation * scale[None, :]
        if HAS_BIAS:
            found += tl.load(bias + channel, mask=known, other=0.0).to(tl.float32)[None, :]
        tl.store(y + at, found.to(y.dtype.element_ty), mask=inside)


@triton.jit(do_not_specialize=["positions"])  # type: ignore[untyped-decorator, unused-ignore]
def group_norm_backward_kernel(  # type: ignore[no-untyped-def]
    g,
    x,
    mean,
    rstd,
    weight,
    dx,
    dw_rows,
    db_rows,
    positions,
    CHANNELS: tl.constexpr,
    PER_GROUP: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    g += row * positions * CHANNELS
    x += row * positions * CHANNELS
    dx += row * positions * CHANNELS
    channel = tl.arange(0, BLOCK_C)
    known = channel < CHANNELS
    place = tl.arange(0, BLOCK_P)
    size = (positions * PER_GROUP).to(tl.float32)
    statistic = row * (CHANNELS // PER_GROUP) + channel // PER_GROUP
    mean_c = tl.load(mean + statistic, mask=known, other=0.0)
    rstd_c = tl.load(rstd + statistic, mask=known, other=0.0)

    total_g = tl.zeros([BLOCK_P, BLOCK_C], dtype=tl.float32)
    total_gx = tl.zeros([BLOCK_P, BLOCK_C], dtype=tl.float32)
    for start in range(0, positions, BLOCK_P):
        position = start + place
        inside = (position < positions)[:, None] & known[None, :]
        at = position[:, None] * CHANNELS + channel[None, :]
        g_part = tl.load(g + at, mask=inside, other=0.0).to(tl.float32)
        x_part = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
        total_g += g_part
        total_gx += g_part * ((x_part - mean_c[None, :]) * rstd_c[None, :])
    db_c = tl.sum(total_g, axis=0)
    dw_c = tl.sum(total_gx, axis=0)
    tl.store(db_rows + row * CHANNELS + channel, db_c, mask=known)
    tl.store(dw_rows + row * CHANNELS + channel, dw_c, mask=known)

    if HAS_WEIGHT:
        weight_c = tl.load(weight + channel, mask=known, other=0.0).to(tl.float32)
    else:
        weight_c = tl.full([BLOCK_C], 1.0, dtype=tl.float32)
    along_one = _over_group(weight_c * db_c, PER_GROUP, BLOCK_C) / size
    along_x = _over_group(weight_c * dw_c, PER_GROUP, BLOCK_C) / size
    for start in range(0, positions, BLOCK_P):
        position = start + place
        inside = (position < positions)[:, None] & known[None, :]
        at = position[:, None] * CHANNELS + channel[None, :]
        g_part = tl.load(g + at, mask=inside, other=0.0).to(tl.float32)
        x_part = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
        x_hat = (x_part - mean_c[None, :]) * rstd_c[None, :]
        removed = along_one[None, :] + x_hat * along_x[None, :]
        found = rstd_c[None, :] * (g_part * weight_c[None, :] - removed)
        tl.store(dx + at, found.to(dx.dtype.element_ty), mask=inside)

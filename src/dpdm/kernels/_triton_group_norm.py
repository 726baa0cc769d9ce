"""The Triton kernels of ``group_norm.py``, imported only where Triton is at hand.

Each program has one row to itself, adds up in a fixed order and writes to that row's places alone.
Maps are (N, positions, CHANNELS), dense; weights and biases of rows lie ``parameter_stride`` apart,
which is 0 where all rows have the same. CHANNELS is a constant so that loads are known to be
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


@triton.jit(do_not_specialize=["positions", "parameter_stride"])  # type: ignore[untyped-decorator, unused-ignore]
def group_norm_forward_kernel(  # type: ignore[no-untyped-def]
    x,
    shift,
    weight,
    bias,
    y,
    mean,
    rstd,
    positions,
    parameter_stride,
    eps,
    CHANNELS: tl.constexpr,
    PER_GROUP: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
    HAS_SHIFT: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    SWISH: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    x += row * positions * CHANNELS
    y += row * positions * CHANNELS
    channel = tl.arange(0, BLOCK_C)
    known = channel < CHANNELS
    parameter = row * parameter_stride + channel
    shift_c = tl.zeros([BLOCK_C], dtype=tl.float32)
    if HAS_SHIFT:
        shift_c = tl.load(shift + row * CHANNELS + channel, mask=known, other=0.0).to(tl.float32)
    place = tl.arange(0, BLOCK_P)
    size = (positions * PER_GROUP).to(tl.float32)

    total = tl.zeros([BLOCK_P, BLOCK_C], dtype=tl.float32)
    for start in range(0, positions, BLOCK_P):
        position = start + place
        inside = (position < positions)[:, None] & known[None, :]
        at = position[:, None] * CHANNELS + channel[None, :]
        x_part = tl.load(x + at, mask=inside, other=0.0).to(tl.float32) + shift_c[None, :]
        total += tl.where(inside, x_part, 0.0)
    mean_c = _over_group(tl.sum(total, axis=0), PER_GROUP, BLOCK_C) / size

    # A second pass over the row: E[x^2] - E[x]^2 would cancel where the mean is large.
    squares = tl.zeros([BLOCK_P, BLOCK_C], dtype=tl.float32)
    for start in range(0, positions, BLOCK_P):
        position = start + place
        inside = (position < positions)[:, None] & known[None, :]
        at = position[:, None] * CHANNELS + channel[None, :]
        x_part = tl.load(x + at, mask=inside, other=0.0).to(tl.float32) + shift_c[None, :]
        deviation = x_part - mean_c[None, :]
        squares += tl.where(inside, deviation * deviation, 0.0)
    variance_c = _over_group(tl.sum(squares, axis=0), PER_GROUP, BLOCK_C) / size
    rstd_c = tl.rsqrt(variance_c + eps)

    statistic = row * (CHANNELS // PER_GROUP) + channel // PER_GROUP
    first_of_group = known & (channel % PER_GROUP == 0)
    tl.store(mean + statistic, mean_c, mask=first_of_group)
    tl.store(rstd + statistic, rstd_c, mask=first_of_group)

    scale = rstd_c
    if HAS_WEIGHT:
        scale = scale * tl.load(weight + parameter, mask=known, other=0.0).to(tl.float32)
    bias_c = tl.zeros([BLOCK_C], dtype=tl.float32)
    if HAS_BIAS:
        bias_c = tl.load(bias + parameter, mask=known, other=0.0).to(tl.float32)
    for start in range(0, positions, BLOCK_P):
        position = start + place
        inside = (position < positions)[:, None] & known[None, :]
        at = position[:, None] * CHANNELS + channel[None, :]
        x_part = tl.load(x + at, mask=inside, other=0.0).to(tl.float32) + shift_c[None, :]
        found = (x_part - mean_c[None, :]) * scale[None, :] + bias_c[None, :]
        if SWISH:
            found *= tl.sigmoid(found)
        tl.store(y + at, found.to(y.dtype.element_ty), mask=inside)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _through_swish(g, x_hat, weight_c, bias_c):  # type: ignore[no-untyped-def]
    """The gradient of z = w x_hat + b, given that of z sigmoid(z)."""
    z = x_hat * weight_c[None, :] + bias_c[None, :]
    share = tl.sigmoid(z)
    return g * share * (1.0 + z * (1.0 - share))


@triton.jit(do_not_specialize=["positions", "parameter_stride"])  # type: ignore[untyped-decorator, unused-ignore]
def group_norm_backward_kernel(  # type: ignore[no-untyped-def]
    g,
    x,
    shift,
    mean,
    rstd,
    weight,
    bias,
    dx,
    dshift,
    dw_rows,
    db_rows,
    positions,
    parameter_stride,
    CHANNELS: tl.constexpr,
    PER_GROUP: tl.constexpr,
    BLOCK_P: tl.constexpr,
    BLOCK_C: tl.constexpr,
    HAS_SHIFT: tl.constexpr,
    HAS_WEIGHT: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    SWISH: tl.constexpr,
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
    parameter = row * parameter_stride + channel
    weight_c = tl.full([BLOCK_C], 1.0, dtype=tl.float32)
    if HAS_WEIGHT:
        weight_c = tl.load(weight + parameter, mask=known, other=0.0).to(tl.float32)
    bias_c = tl.zeros([BLOCK_C], dtype=tl.float32)
    if HAS_BIAS:
        bias_c = tl.load(bias + parameter, mask=known, other=0.0).to(tl.float32)
    if HAS_SHIFT:  # (x + shift) - mean
        mean_c -= tl.load(shift + row * CHANNELS + channel, mask=known, other=0.0).to(tl.float32)

    total_g = tl.zeros([BLOCK_P, BLOCK_C], dtype=tl.float32)
    total_gx = tl.zeros([BLOCK_P, BLOCK_C], dtype=tl.float32)
    for start in range(0, positions, BLOCK_P):
        position = start + place
        inside = (position < positions)[:, None] & known[None, :]
        at = position[:, None] * CHANNELS + channel[None, :]
        g_part = tl.load(g + at, mask=inside, other=0.0).to(tl.float32)
        x_part = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
        x_hat = (x_part - mean_c[None, :]) * rstd_c[None, :]
        if SWISH:
            g_part = _through_swish(g_part, x_hat, weight_c, bias_c)
        total_g += g_part
        total_gx += g_part * x_hat
    db_c = tl.sum(total_g, axis=0)
    dw_c = tl.sum(total_gx, axis=0)
    tl.store(db_rows + row * CHANNELS + channel, db_c, mask=known)
    tl.store(dw_rows + row * CHANNELS + channel, dw_c, mask=known)

    along_one = _over_group(weight_c * db_c, PER_GROUP, BLOCK_C) / size
    along_x = _over_group(weight_c * dw_c, PER_GROUP, BLOCK_C) / size
    total = tl.zeros([BLOCK_P, BLOCK_C], dtype=tl.float32)
    for start in range(0, positions, BLOCK_P):
        position = start + place
        inside = (position < positions)[:, None] & known[None, :]
        at = position[:, None] * CHANNELS + channel[None, :]
        g_part = tl.load(g + at, mask=inside, other=0.0).to(tl.float32)
        x_part = tl.load(x + at, mask=inside, other=0.0).to(tl.float32)
        x_hat = (x_part - mean_c[None, :]) * rstd_c[None, :]
        if SWISH:
            g_part = _through_swish(g_part, x_hat, weight_c, bias_c)
        removed = along_one[None, :] + x_hat * along_x[None, :]
        found = rstd_c[None, :] * (g_part * weight_c[None, :] - removed)
        tl.store(dx + at, found.to(dx.dtype.element_ty), mask=inside)
        if HAS_SHIFT:
            total += tl.where(inside, found, 0.0)
    if HAS_SHIFT:
        tl.store(dshift + row * CHANNELS + channel, tl.sum(total, axis=0), mask=known)

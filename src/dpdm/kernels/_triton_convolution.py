"""The Triton kernel of ``convolution.py``, imported only where Triton is at hand."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["rows", "height", "width"])  # type: ignore[untyped-decorator, unused-ignore]
def weight_gradient_kernel(  # type: ignore[no-untyped-def]
    x,
    g,
    dw,
    rows,
    height,
    width,
    channels_in,
    channels_out,
    stride_y,
    stride_x,
    padding_y,
    padding_x,
    dilation_y,
    dilation_x,
    POSITIONS: tl.constexpr,
    WIDTH: tl.constexpr,
    TAPS_Y: tl.constexpr,
    TAPS_X: tl.constexpr,
    THREE: tl.constexpr,
    BLOCK: tl.constexpr,
    BLOCK_IN: tl.constexpr,
    BLOCK_OUT: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:
    """dw[u, o, ty, tx, i] = sum over rows and positions of unit u of g[., o] x[. moved by tap, i].

    x (N, height, width, channels_in), g (N, POSITIONS of WIDTH a line, channels_out) and dw
    (U, channels_out, TAPS_Y, TAPS_X, channels_in) are dense. A program has one unit, one tap (with
    THREE: the three taps of a line, which share g) and one block of channels.
    """
    parts: tl.constexpr = TAPS_Y if THREE else TAPS_Y * TAPS_X
    unit = (tl.program_id(0) // parts).to(tl.int64)
    part = tl.program_id(0) % parts
    tap_y = part if THREE else part // TAPS_X
    tap_x = 0 if THREE else part % TAPS_X
    channel_in = tl.program_id(1) * BLOCK_IN + tl.arange(0, BLOCK_IN)
    channel_out = tl.program_id(2) * BLOCK_OUT + tl.arange(0, BLOCK_OUT)
    known_in = (channel_in < channels_in)[None, :]
    known_out = (channel_out < channels_out)[None, :]
    g += unit * rows * POSITIONS * channels_out
    x += unit * rows * height * width * channels_in

    total_0 = tl.zeros((BLOCK_OUT, BLOCK_IN), dtype=tl.float32)
    total_1 = total_0
    total_2 = total_0
    count = rows * POSITIONS
    for start in range(0, count, BLOCK):
        place = start + tl.arange(0, BLOCK)
        inside = place < count
        row = place // POSITIONS
        position = place % POSITIONS
        y = (position // WIDTH) * stride_y - padding_y + tap_y * dilation_y
        line = row * height + y
        inside_y = inside & (y >= 0) & (y < height)
        left = (position % WIDTH) * stride_x - padding_x
        g_part = tl.load(
            g + place[:, None] * channels_out + channel_out[None, :],
            mask=inside[:, None] & known_out,
            other=0.0,
        )
        g_turned = tl.trans(g_part)

        column = left + tap_x * dilation_x
        seen = inside_y & (column >= 0) & (column < width)
        x_part = tl.load(
            x + (line * width + column)[:, None] * channels_in + channel_in[None, :],
            mask=seen[:, None] & known_in,
            other=0.0,
        )
        total_0 = tl.dot(g_turned, x_part, total_0, input_precision=PRECISION)
        if THREE:
            column = left + dilation_x
            seen = inside_y & (column >= 0) & (column < width)
            x_part = tl.load(
                x + (line * width + column)[:, None] * channels_in + channel_in[None, :],
                mask=seen[:, None] & known_in,
                other=0.0,
            )
            total_1 = tl.dot(g_turned, x_part, total_1, input_precision=PRECISION)
            column = left + 2 * dilation_x
            seen = inside_y & (column >= 0) & (column < width)
            x_part = tl.load(
                x + (line * width + column)[:, None] * channels_in + channel_in[None, :],
                mask=seen[:, None] & known_in,
                other=0.0,
            )
            total_2 = tl.dot(g_turned, x_part, total_2, input_precision=PRECISION)

    tap = tap_y * TAPS_X + tap_x
    outputs = (unit * channels_out + channel_out)[:, None] * (TAPS_Y * TAPS_X) + tap
    found = dw + outputs * channels_in + channel_in[None, :]
    known = (channel_out < channels_out)[:, None] & known_in
    tl.store(found, total_0, mask=known)
    if THREE:
        tl.store(found + channels_in, total_1, mask=known)
        tl.store(found + 2 * channels_in, total_2, mask=known)

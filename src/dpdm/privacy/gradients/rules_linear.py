"""Per-unit gradients of linear maps and table look-ups.

linear: dL_u/dW = sum over the rows r of unit u of g_r x_r^T, one batched matrix product over units.
embedding: dL_u/dW[i] = sum over the rows of unit u that look up i of g_r.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dpdm.privacy.gradients.first_order import first_order
from dpdm.privacy.gradients.precision import as_autocast

if TYPE_CHECKING:
    from dpdm.privacy.gradients.interception import Layout, UnitCopies


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weights: Tensor, biases: Tensor | None, layout: Layout
    ) -> Tensor:
        ctx.save_for_backward(x, weights)
        ctx.layout = layout
        return F.linear(x, weights[0], None if biases is None else biases[0])

    @staticmethod
    @first_order
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, weights = ctx.saved_tensors
        dx = dw = db = None
        if ctx.needs_input_grad[0]:
            dx = g @ weights[0].to(g.dtype)
        if ctx.needs_input_grad[1] or ctx.needs_input_grad[2]:
            units = len(weights)
            g = ctx.layout.by_unit(g, units, g.shape[-1:])
            if ctx.needs_input_grad[1]:
                x = ctx.layout.by_unit(x, units, x.shape[-1:])
                dw = torch.bmm(g.to(x.dtype).transpose(1, 2), x).to(weights.dtype)
            if ctx.needs_input_grad[2]:
                db = g.sum(1, dtype=weights.dtype)
        return dx, dw, db, None


def _linear(copies: UnitCopies, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Any:
    layout = copies.layout(input.shape[:-1])
    if layout is None or weight.ndim != 2 or copies.tracks(input) or weight.is_complex():
        return NotImplemented
    biases = None if bias is None else copies.of(bias)
    return _Linear.apply(as_autocast(input), copies.of(weight), biases, layout)  # type: ignore[no-untyped-call]


class _Embedding(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, indices: Tensor, weights: Tensor, padding: int | None, layout: Layout
    ) -> Tensor:
        ctx.save_for_backward(indices)
        ctx.shape, ctx.padding, ctx.layout = weights.shape, padding, layout
        return F.embedding(indices, weights[0])

    @staticmethod
    @first_order
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        (indices,) = ctx.saved_tensors
        units, count, width = ctx.shape
        g = ctx.layout.by_unit(g, units, (width,))
        indices = ctx.layout.by_unit(indices, units, ())
        offsets = torch.arange(units, device=g.device).unsqueeze(1) * count
        dw = g.new_zeros(units * count, width)
        dw.index_add_(0, (indices + offsets).flatten(), g.reshape(-1, width))
        dw = dw.view(units, count, width)
        if ctx.padding is not None:
            dw[:, ctx.padding] = 0
        return None, dw, None, None


def _embedding(
    copies: UnitCopies,
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Any:
    layout = copies.layout(input.shape)
    if layout is None or max_norm is not None or scale_grad_by_freq or copies.tracks(input):
        return NotImplemented
    return _Embedding.apply(input, copies.of(weight), padding_idx, layout)  # type: ignore[no-untyped-call]


RULES: dict[Any, Callable[..., Any]] = {F.linear: _linear, F.embedding: _embedding}

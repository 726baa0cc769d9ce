"""Per-unit gradients of normalisations within a row, and the refusal of those across rows.

y = w * x_hat + b gives dL_u/dw = sum_r g_r x_hat_r and dL_u/db = sum_r g_r over the rows and
positions r of unit u. For GroupNorm torch's own backward does it: with every row's channels taken
as channels of one image, (N, C) -> (1, N C) in N G groups, it returns the sums over positions for
each row and channel, in one pass together with the input gradient. On a GPU, where channels lie
innermost, ``kernels/group_norm.py`` does it in place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from dpdm.kernels import group_norm
from dpdm.privacy.gradients.first_order import first_order
from dpdm.privacy.gradients.refusal import UnsupportedModuleError
from dpdm.privacy.gradients.rules_general import elementwise

if TYPE_CHECKING:
    from dpdm.privacy.gradients.interception import Layout, UnitCopies


class _GroupNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        groups: int,
        weights: Tensor | None,
        biases: Tensor | None,
        eps: float,
        by_kernel: bool,
    ) -> Tensor:
        weight = None if weights is None else weights[0]
        bias = None if biases is None else biases[0]
        ctx.by_kernel = by_kernel
        if by_kernel:
            y, mean, rstd = group_norm.group_norm_forward(x, groups, weight, bias, eps)
        else:
            x = x.contiguous()
            n, c, positions = len(x), x.shape[1], x.shape[2:].numel()
            y, mean, rstd = torch.native_group_norm(x, weight, bias, n, c, positions, groups, eps)
        ctx.save_for_backward(x, weight, mean, rstd)
        copies = weights if weights is not None else biases
        ctx.units = 1 if copies is None else len(copies)
        return y

    @staticmethod
    @first_order
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, mean, rstd = ctx.saved_tensors
        needs_x, _, needs_weight, needs_bias, _, _ = ctx.needs_input_grad
        c = x.shape[1]
        if ctx.by_kernel:
            dx, dw, db, _ = group_norm.group_norm_backward(g, x, mean, rstd, weight)
        else:
            n, positions = len(x), x.shape[2:].numel()
            dx, dw, db = torch.ops.aten.native_group_norm_backward(
                g.contiguous().view(1, n * c, positions),
                x.view(1, n * c, positions),
                mean.view(1, -1),
                rstd.view(1, -1),
                None if weight is None else weight.repeat(n),
                1,
                n * c,
                positions,
                mean.numel(),
                [needs_x, needs_weight, needs_bias],
            )
        return (
            dx.view_as(x) if needs_x else None,
            None,
            _by_unit(dw, ctx.units, c) if needs_weight else None,
            _by_unit(db, ctx.units, c) if needs_bias else None,
            None,
            None,
        )


def _by_unit(rows: Tensor, units: int, channels: int) -> Tensor:
    return rows.view(units, -1, channels).sum(1)


def _group_norm(
    copies: UnitCopies,
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Any:
    if copies.dimension(input.shape[:1]) != 0 or copies.tracks(input):
        return NotImplemented
    by_kernel = group_norm.usable(input, num_groups)
    return _GroupNorm.apply(  # type: ignore[no-untyped-call]
        input if by_kernel else _as_full_precision(input),
        num_groups,
        _copies(copies, weight),
        _copies(copies, bias),
        eps,
        by_kernel,
    )


class _LayerNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        shape: Sequence[int],
        weights: Tensor | None,
        biases: Tensor | None,
        eps: float,
        layout: Layout,
    ) -> Tensor:
        weight = None if weights is None else weights[0]
        bias = None if biases is None else biases[0]
        y, mean, rstd = torch.native_layer_norm(x, shape, weight, bias, eps)
        ctx.save_for_backward(x, weight, bias, mean, rstd)
        copies = weights if weights is not None else biases
        ctx.units = 1 if copies is None else len(copies)
        ctx.shape, ctx.layout = shape, layout
        return y

    @staticmethod
    @first_order
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, bias, mean, rstd = ctx.saved_tensors
        needs_x, _, needs_weight, needs_bias, _, _ = ctx.needs_input_grad
        dx = dw = db = None
        if needs_x:
            dx, _, _ = torch.ops.aten.native_layer_norm_backward(
                g, x, ctx.shape, mean, rstd, weight, bias, [True, False, False]
            )
        if needs_weight:
            scaled = (x - mean).mul_(rstd).mul_(g)
            dw = ctx.layout.by_unit(scaled, ctx.units, ctx.shape).sum(1)
        if needs_bias:
            db = ctx.layout.by_unit(g.to(bias.dtype), ctx.units, ctx.shape).sum(1)
        return dx, None, dw, db, None, None


def _layer_norm(
    copies: UnitCopies,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Any:
    layout = copies.layout(input.shape[: input.ndim - len(normalized_shape)])
    if layout is None or copies.tracks(input):
        return NotImplemented
    return _LayerNorm.apply(  # type: ignore[no-untyped-call]
        _as_full_precision(input),
        list(normalized_shape),
        _copies(copies, weight),
        _copies(copies, bias),
        eps,
        layout,
    )


def _rms_norm(
    copies: UnitCopies,
    input: Tensor,
    normalized_shape: Sequence[int],
    weight: Tensor,
    eps: float | None = None,
) -> Any:
    if copies.tracks(input):
        return NotImplemented
    return elementwise(torch.mul, copies, F.rms_norm(input, normalized_shape, None, eps), weight)


def _instance_norm(
    copies: UnitCopies,
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    if copies.dimension(input.shape[:1]) != 0 or copies.tracks(input):
        return NotImplemented
    y = F.instance_norm(
        input, running_mean, running_var, None, None, use_input_stats, momentum, eps
    )
    for function, parameter in ((torch.mul, weight), (torch.add, bias)):
        if parameter is not None:
            along = parameter.view(-1, *[1] * (input.ndim - 2))
            if copies.tracks(parameter):
                y = elementwise(function, copies, y, copies.derive(along, (parameter,)))
            else:
                y = function(y, along)
    return y


def refuse_batch_statistics(func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Raise UnsupportedModuleError for a functional normalisation over the batch."""
    if func in _BATCH_STATISTICS:
        flag, position = _BATCH_STATISTICS[func]
        if kwargs.get(flag, args[position] if len(args) > position else False):
            raise UnsupportedModuleError(
                f"the loss calls {func.__name__}({flag}=True), which computes statistics over the "
                "batch, so that one unit changes another's loss: use group_norm instead"
            )


def _copies(copies: UnitCopies, tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else copies.of(tensor)


def _as_full_precision(x: Tensor) -> Tensor:
    """Autocast on a GPU normalises in float32; on a CPU it leaves the input as it is."""
    low = x.device.type != "cpu" and torch.is_autocast_enabled(x.device.type)
    return x.float() if low and x.dtype.itemsize < 4 else x


_BATCH_STATISTICS: dict[Any, tuple[str, int]] = {
    F.batch_norm: ("training", 5),
    torch.batch_norm: ("training", 5),
}

RULES: dict[Any, Callable[..., Any]] = {
    F.group_norm: _group_norm,
    F.layer_norm: _layer_norm,
    F.rms_norm: _rms_norm,
    F.instance_norm: _instance_norm,
}

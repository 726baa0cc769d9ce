"""Per-unit gradients of convolutions, transposed ones included, in 1 to 3 dimensions.

dL_u/dW is the weight gradient of the convolution restricted to the R rows of unit u. Three ways to
compute it, each with torch's own kernels: one call for each unit on its slice of the batch; one
call in which units are groups, the batch folded from (U R, C) to (R, U C); for kernels of one
pixel, one batched matrix product. Measured against the weight gradient summed over the batch
(thread time in ms on one AVX-512 core, torch 2.13, bias included):

    map    channels  kernel   U   R   summed  call a unit  units as groups  product
    28x28  32 -> 32    3      8  16     23.9         23.1             44.8
    28x28  96 -> 32    3      8  16     62.0         61.1             93.8
    28x28   1 -> 32    3      8  16      3.0          2.4              7.1
    14x14  64 -> 64    3      8  16     19.4         21.3             24.0
    14x14  64 -> 64    3     64   4     38.7         49.5             52.0
     7x7   64 -> 64    3      8  16      5.3          6.2              5.7
     7x7   64 -> 64    3     64   4     11.2         18.7             17.0
     8x8   24 -> 24    3     64   4      3.3         10.2              3.0
     8x8   24 ->  1    3     64   4      1.7          8.2              5.9
     4x4   48 -> 48    3     64   4      1.9          9.3              4.1
     4x4   96 -> 48    3     64   4      3.9         14.1             11.5
    28x28  64 -> 32    1      8  16     12.4          8.3             16.0     15.4
     8x8   48 -> 24    1     64   4      1.2          2.6              2.2      1.4
     4x4   96 -> 48    1     64   4      0.6          2.3              1.9      1.0

Unfolding 3x3 patches costs 2 to 5 times as much on all of these. Where a unit has few rows and
positions, writing a gradient for each unit is itself the cost.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dpdm.privacy.gradients.first_order import first_order
from dpdm.privacy.gradients.precision import as_autocast

if TYPE_CHECKING:
    from dpdm.privacy.gradients.interception import UnitCopies

# A unit with this many multiplications and more is worth a call of its own,
_OWN_CALL = 20_000_000
# and with few channels, for which the grouped kernel is slow, already with so many.
_FEW_CHANNELS = 8
_OWN_CALL_FEW_CHANNELS = 500_000


class _Options(NamedTuple):
    stride: list[int]
    padding: list[int]
    dilation: list[int]
    transposed: bool
    output_padding: list[int]
    groups: int


def _backward(
    g: Tensor, x: Tensor, weight: Tensor, options: _Options, mask: tuple[bool, bool, bool]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    result: tuple[Tensor | None, Tensor | None, Tensor | None]
    result = torch.ops.aten.convolution_backward(g, x, weight, [g.shape[1]], *options, list(mask))
    return result


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weights: Tensor, biases: Tensor | None, options: _Options
    ) -> Tensor:
        ctx.save_for_backward(x, weights)
        ctx.options = options
        bias = None if biases is None else as_autocast(biases[0])
        return torch.convolution(x, as_autocast(weights[0]), bias, *options)

    @staticmethod
    @first_order
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x, weights = ctx.saved_tensors
        needs_x, needs_weight, needs_bias, _ = ctx.needs_input_grad
        dx = dw = db = None
        if needs_x:
            weight = weights[0].to(x.dtype)
            dx = _backward(g, x, weight, ctx.options, (True, False, False))[0]
        if needs_weight:
            x, g = x.to(weights.dtype), g.to(weights.dtype)
            dw, db = _weight_gradient(g, x, weights, ctx.options, needs_bias)
        elif needs_bias:
            rows = g.to(weights.dtype).flatten(2).sum(2)
            db = rows.view(len(weights), -1, g.shape[1]).sum(1)
        return dx, dw, db, None


def _weight_gradient(
    g: Tensor, x: Tensor, weights: Tensor, options: _Options, needs_bias: bool
) -> tuple[Tensor, Tensor | None]:
    """((U, *weight shape), (U, channels) or None), in the form that suits the layer's shape."""
    units, each, other = weights.shape[:3]
    few = options.groups == 1 and min(each, other) < _FEW_CHANNELS
    positions = (x if options.transposed else g).shape[2:].numel() * (len(x) // units)
    if positions * weights[0].numel() >= (_OWN_CALL_FEW_CHANNELS if few else _OWN_CALL):
        return _unit_by_unit(g, x, weights, options, needs_bias)
    if _is_product(weights, options):
        return _as_product(g, x, weights, needs_bias)
    return _units_as_groups(g, x, weights, options, needs_bias)


def _is_product(weights: Tensor, options: _Options) -> bool:
    """Whether the convolution is the same linear map at every position."""
    pointwise = weights.shape[3:].numel() == 1 and not options.transposed and options.groups == 1
    return pointwise and max(options.stride) == 1 and max(options.padding) == 0


def _as_product(
    g: Tensor, x: Tensor, weights: Tensor, needs_bias: bool
) -> tuple[Tensor, Tensor | None]:
    g_units, x_units = (_by_unit(tensor, len(weights)) for tensor in (g, x))
    dw = torch.bmm(g_units, x_units.transpose(1, 2)).view(weights.shape)
    return dw, g_units.sum(2) if needs_bias else None


def _by_unit(x: Tensor, units: int) -> Tensor:
    """(U R, C, ...) -> (U, C, rows and positions of the unit)."""
    return (
        x.flatten(2).reshape(units, -1, x.shape[1], x.shape[2:].numel()).transpose(1, 2).flatten(2)
    )


def _unit_by_unit(
    g: Tensor, x: Tensor, weights: Tensor, options: _Options, needs_bias: bool
) -> tuple[Tensor, Tensor | None]:
    units = len(weights)
    dw = weights.new_empty(weights.shape)
    db = weights.new_empty(units, g.shape[1]) if needs_bias else None
    slices = zip(g.chunk(units), x.chunk(units), strict=True)
    for u, (g_unit, x_unit) in enumerate(slices):
        _, dw_unit, db_unit = _backward(
            g_unit, x_unit, weights[0], options, (False, True, needs_bias)
        )
        assert dw_unit is not None
        dw[u] = dw_unit
        if db is not None and db_unit is not None:
            db[u] = db_unit
    return dw, db


def _units_as_groups(
    g: Tensor, x: Tensor, weights: Tensor, options: _Options, needs_bias: bool
) -> tuple[Tensor, Tensor | None]:
    units = len(weights)
    # Only the shape of the weight enters its gradient, so that no copy of it is needed.
    weight = weights.new_empty(()).expand(units * weights.shape[1], *weights.shape[2:])
    _, dw, db = _backward(
        _folded(g, units),
        _folded(x, units),
        weight,
        options._replace(groups=units * options.groups),
        (False, True, needs_bias),
    )
    assert dw is not None
    return dw.reshape(weights.shape), None if db is None else db.view(units, -1)


def _folded(x: Tensor, units: int) -> Tensor:
    """(U R, C, ...) -> (R, U C, ...)."""
    return x.reshape(units, -1, *x.shape[1:]).transpose(0, 1).flatten(1, 2)


def _convolution(
    copies: UnitCopies, input: Tensor, weight: Tensor, bias: Tensor | None, options: _Options
) -> Any:
    batched = input.ndim == weight.ndim and copies.dimension(input.shape[:1]) == 0
    if not batched or copies.tracks(input) or weight.is_complex():
        return NotImplemented
    biases = None if bias is None else copies.of(bias)
    return _Convolution.apply(as_autocast(input), copies.of(weight), biases, options)  # type: ignore[no-untyped-call]


def _forward_rule(dimensions: int) -> Callable[..., Any]:
    def rule(
        copies: UnitCopies,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: int | Sequence[int] = 1,
        padding: int | str | Sequence[int] = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
    ) -> Any:
        strides, dilations = _each(stride, dimensions), _each(dilation, dimensions)
        if isinstance(padding, str):
            if padding == "same" and strides != [1] * dimensions:
                return NotImplemented
            widths = [
                d * (k - 1) if padding == "same" else 0
                for d, k in zip(dilations, weight.shape[2:], strict=True)
            ]
            if any(width % 2 for width in widths):  # the larger half goes to the end
                ends = [side for width in reversed(widths) for side in (0, width % 2)]
                input = F.pad(input, ends)
            paddings = [width // 2 for width in widths]
        else:
            paddings = _each(padding, dimensions)
        options = _Options(strides, paddings, dilations, False, [0] * dimensions, groups)
        return _convolution(copies, input, weight, bias, options)

    return rule


def _transposed_rule(dimensions: int) -> Callable[..., Any]:
    def rule(
        copies: UnitCopies,
        input: Tensor,
        weight: Tensor,
        bias: Tensor | None = None,
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] = 0,
        output_padding: int | Sequence[int] = 0,
        groups: int = 1,
        dilation: int | Sequence[int] = 1,
    ) -> Any:
        options = _Options(
            _each(stride, dimensions),
            _each(padding, dimensions),
            _each(dilation, dimensions),
            True,
            _each(output_padding, dimensions),
            groups,
        )
        return _convolution(copies, input, weight, bias, options)

    return rule


def _each(value: int | Sequence[int], dimensions: int) -> list[int]:
    values = [value] if isinstance(value, int) else list(value)
    return values * dimensions if len(values) == 1 else values


RULES: dict[Any, Callable[..., Any]] = {
    F.conv1d: _forward_rule(1),
    F.conv2d: _forward_rule(2),
    F.conv3d: _forward_rule(3),
    F.conv_transpose1d: _transposed_rule(1),
    F.conv_transpose2d: _transposed_rule(2),
    F.conv_transpose3d: _transposed_rule(3),
}

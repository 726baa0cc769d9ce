"""Per-unit gradients of convolutions, transposed ones included, in 1 to 3 dimensions.

dL_u/dW is the weight gradient of the convolution restricted to the R rows of unit u. Computed with
torch's own kernels: in one call units are groups, the batch folded from (U R, C) to (R, U C); or,
for kernels of one pixel and little work, in one batched matrix product. Folded units are fastest
while they stay in the cache. Measured for 3x3 kernels against the gradient summed over the batch
(median wall time in ms on two AVX-512 cores, torch 2.13, by the units in a call):

                            float32                             bfloat16
  map   channels  U  R  summed    1    2    4    8  all  summed    1    2    4    8  all
 28x28 32->32  64  4     42    32   31   30   30   64      16    26   29   21   20   18
 14x14 64->64  64  4     24    38   33   31   31   31      15    29   22   19   18   21
   7x7 64->64  64  4    7.0    21   15   11   10   12     5.0    18   12  9.2  6.5  7.9
 28x28 96->32  64  4     80    68   75   74   78  114      36    47   39   39   42   54
 28x28 32->32   8 16     11    12   12   13   13   13     6.6   7.4  7.0  7.5  8.0  8.0
 14x14 64->64   8 16     10    12   11   12   12   12     6.3   7.6  6.6  6.8  7.1  7.1
   7x7 64->64   8 16    2.6   3.9  3.3  3.1  3.0  3.0     1.8   2.9  2.4  2.1  2.0  2.0
 28x28 32->32   8 32     35    22   26   29   52   52      13    14   14   15   15   15

A product of patches unfolded, or of nine shifted copies, costs 1.5 to 7 times as much on all of
these but the smallest. On a GPU there is a kernel of its own (``kernels/convolution.py``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dpdm.kernels import convolution
from dpdm.privacy.gradients.first_order import first_order
from dpdm.privacy.gradients.precision import as_autocast

if TYPE_CHECKING:
    from dpdm.privacy.gradients.interception import UnitCopies

# Units are taken into a call while their images and gradients together fit the cache.
_CACHE_BYTES = 4 * 2**20
# A convolution of one pixel with this many multiplications a unit does not go as a product.
_OWN_CALL = 20_000_000
# With few channels the grouped kernel is slow, and a unit soon worth a call of its own.
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
            dw, db = _weight_gradient(g.to(x.dtype), x, weights, ctx.options, needs_bias)
        elif needs_bias:
            rows = g.to(weights.dtype).flatten(2).sum(2)
            db = rows.view(len(weights), -1, g.shape[1]).sum(1)
        return dx, dw, db, None


def _weight_gradient(
    g: Tensor, x: Tensor, weights: Tensor, options: _Options, needs_bias: bool
) -> tuple[Tensor, Tensor | None]:
    """((U, *weight shape), (U, channels) or None), in the form that suits the layer's shape."""
    units, each, other = weights.shape[:3]
    if not options.transposed and convolution.usable(
        x, g, weights.shape[3:], options.groups, units
    ):
        return _in_one_kernel(g, x, weights, options, needs_bias)
    rows = len(x) // units
    work = (x if options.transposed else g).shape[2:].numel() * rows * weights[0].numel()
    if _is_product(weights, options) and work < _OWN_CALL:
        return _as_product(g, x, weights, needs_bias)
    few = options.groups == 1 and min(each, other) < _FEW_CHANNELS
    own_call = few and work >= _OWN_CALL_FEW_CHANNELS
    fitting = 1 if own_call else _CACHE_BYTES * units // (x.nbytes + g.nbytes)
    at_once = _equal_calls(units, fitting)
    if at_once == units:
        dw, db = _units_as_groups(g, x, weights, options, needs_bias)
        return dw.to(weights.dtype), None if db is None else db.to(weights.dtype)
    dw = weights.new_empty(weights.shape)
    db = weights.new_empty(units, g.shape[1]) if needs_bias else None
    for start in range(0, units, at_once):
        own = slice(start, start + at_once)
        part = slice(start * rows, (start + at_once) * rows)
        dw_part, db_part = _units_as_groups(g[part], x[part], weights[own], options, needs_bias)
        dw[own] = dw_part
        if db is not None and db_part is not None:
            db[own] = db_part
    return dw, db


def _in_one_kernel(
    g: Tensor, x: Tensor, weights: Tensor, options: _Options, needs_bias: bool
) -> tuple[Tensor, Tensor | None]:
    units, places = len(weights), (options.stride, options.padding, options.dilation)
    dw = convolution.weight_gradient(x, g, units, weights.shape[3:], *places)
    if not needs_bias:
        return dw.to(weights.dtype), None
    by_unit = g.permute(0, 2, 3, 1).reshape(units, -1, g.shape[1])
    return dw.to(weights.dtype), by_unit.sum(1, dtype=weights.dtype)


def _equal_calls(units: int, fitting: int) -> int:
    """Units in each of a number of equal calls, about ``fitting``; else all of them in one.

    Calls of one size compute every unit alike, so that a unit's place changes no rounding.
    """
    divisors = (n for n in range(min(units, max(fitting, 1)), 0, -1) if units % n == 0)
    largest = next(divisors)
    return largest if 4 * largest >= fitting else units


def _is_product(weights: Tensor, options: _Options) -> bool:
    """Whether the convolution is the same linear map at every position."""
    pointwise = weights.shape[3:].numel() == 1 and not options.transposed and options.groups == 1
    return pointwise and max(options.stride) == 1 and max(options.padding) == 0


def _as_product(
    g: Tensor, x: Tensor, weights: Tensor, needs_bias: bool
) -> tuple[Tensor, Tensor | None]:
    g_units, x_units = (_by_unit(tensor, len(weights)) for tensor in (g, x))
    dw = torch.bmm(g_units, x_units.transpose(1, 2)).view(weights.shape).to(weights.dtype)
    return dw, g_units.sum(2, dtype=weights.dtype) if needs_bias else None


def _by_unit(x: Tensor, units: int) -> Tensor:
    """(U R, C, ...) -> (U, C, rows and positions of the unit)."""
    return (
        x.flatten(2).reshape(units, -1, x.shape[1], x.shape[2:].numel()).transpose(1, 2).flatten(2)
    )


def _units_as_groups(
    g: Tensor, x: Tensor, weights: Tensor, options: _Options, needs_bias: bool
) -> tuple[Tensor, Tensor | None]:
    units = len(weights)
    # Only the shape of the weight enters its gradient, so that no copy of it is needed.
    weight = x.new_empty(()).expand(units * weights.shape[1], *weights.shape[2:])
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

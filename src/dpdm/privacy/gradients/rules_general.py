"""Parameters used directly: by broadcasting, as rows, or by any function through vmap."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

from dpdm.privacy.gradients.refusal import NoRule

if TYPE_CHECKING:
    from dpdm.privacy.gradients.interception import UnitCopies


def elementwise(
    func: Callable[..., Any], copies: UnitCopies, first: Any, second: Any, **kwargs: Any
) -> Any:
    """A function of two that broadcasts: rows (U V, ...) as (U, V, ...) meet copies (U, 1, ...)."""
    if not (isinstance(first, Tensor) and isinstance(second, Tensor)) or "out" in kwargs:
        return NotImplemented
    if copies.tracks(first) == copies.tracks(second):
        return NotImplemented
    data, weight = (second, first) if copies.tracks(first) else (first, second)
    d = copies.dimension(data.shape)
    if d is None or weight.ndim > data.ndim:
        return NotImplemented
    aligned = (1,) * (data.ndim - weight.ndim) + tuple(weight.shape)
    if aligned[d] != 1 or (in_place(func) and data is not first):
        return NotImplemented
    each = copies.of(weight).reshape(copies.units, *aligned).movedim(0, d)
    if weight.ndim == 0:  # a number does not promote the precision of the tensor it meets
        each = each.to(torch.result_type(first, second))
    rows = split_rows(data, d, copies.units)
    result: Tensor = func(rows, each, **kwargs) if data is first else func(each, rows, **kwargs)
    return data if in_place(func) else result.flatten(d, d + 1)


def split_rows(data: Tensor, d: int, units: int) -> Tensor:
    """(..., U V, ...) -> (..., U, V, ...), a view."""
    return data.view(*data.shape[:d], units, -1, *data.shape[d + 1 :])


def in_place(func: Any) -> bool:
    """Whether a function of torch writes into its first argument."""
    name = getattr(func, "__name__", "")
    if name.startswith("__"):
        return name == "__setitem__" or (name.startswith("__i") and name not in _NOT_IN_PLACE)
    return name.endswith("_")


def _expand(copies: UnitCopies, source: Tensor, *sizes: Any, **kwargs: Any) -> Any:
    sizes = _numbers(sizes)
    if kwargs or len(sizes) < source.ndim:
        return NotImplemented
    aligned = (1,) * (len(sizes) - source.ndim) + tuple(source.shape)
    target = [own if size == -1 else size for own, size in zip(aligned, sizes, strict=True)]
    return _as_rows(copies, source, aligned, target, lambda rows, d: rows.expand(target))


def _expand_as(copies: UnitCopies, source: Tensor, other: Tensor) -> Any:
    if not copies.tracks(source):
        return NotImplemented
    result = _expand(copies, source, *other.shape)
    return copies.derive(source.expand_as(other), (source,)) if result is NotImplemented else result


def _repeat(copies: UnitCopies, source: Tensor, *counts: Any, **kwargs: Any) -> Any:
    counts = _numbers(counts)
    if kwargs or len(counts) < source.ndim:
        return NotImplemented
    aligned = (1,) * (len(counts) - source.ndim) + tuple(source.shape)
    target = [own * count for own, count in zip(aligned, counts, strict=True)]
    return _as_rows(
        copies,
        source,
        aligned,
        target,
        lambda rows, d: rows.repeat(*(1 if i == d else n for i, n in enumerate(counts))),
    )


def _numbers(values: tuple[Any, ...]) -> tuple[int, ...]:
    """Sizes given one by one or as one sequence."""
    return tuple(values[0]) if len(values) == 1 and not isinstance(values[0], int) else values


def _as_rows(
    copies: UnitCopies,
    source: Tensor,
    aligned: Sequence[int],
    target: Sequence[int],
    along_others: Callable[[Tensor, int], Tensor],
) -> Any:
    """A parameter that is repeated for each row becomes rows of data, each the copy of its unit."""
    d = copies.dimension(target)
    if d is None or aligned[d] != 1 or target[d] != copies.batch:
        return NotImplemented
    each = copies.of(source).reshape(copies.units, *aligned).squeeze(1 + d).unsqueeze(1)
    rows = each.expand(-1, target[d] // copies.units, *each.shape[2:]).flatten(0, 1)
    return along_others(rows.movedim(0, d), d)


def any_function(
    copies: UnitCopies, func: Any, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Any:
    """Call func once for each unit, on its rows and its copies, through torch.func.vmap.

    Raises NoRule where that cannot be done: in-place functions, rows that do not lie in the first
    dimension, functions without a batching rule.
    """
    if in_place(func) or kwargs.get("out") is not None:
        raise NoRule((), "writes in place")
    leaves, structure = tree_flatten((args, dict(kwargs)))
    tensors: list[Tensor] = []
    batched: list[int | None] = []
    places: list[int] = []
    for place, leaf in enumerate(leaves):
        if not isinstance(leaf, Tensor):
            continue
        if copies.tracks(leaf):
            tensor, along = copies.of(leaf), 0
        elif copies.is_data(leaf):
            if copies.dimension(leaf.shape) != 0:
                raise NoRule((), "the rows of the units are not in the first dimension")
            tensor, along = split_rows(leaf, 0, copies.units), 0
        else:
            tensor, along = leaf, None
        tensors.append(tensor)
        batched.append(along)
        places.append(place)

    def for_one_unit(*own: Tensor) -> Any:
        filled = list(leaves)
        for place, tensor in zip(places, own, strict=True):
            filled[place] = tensor
        own_args, own_kwargs = tree_unflatten(filled, structure)
        return func(*own_args, **own_kwargs)

    try:
        result = torch.func.vmap(for_one_unit, in_dims=tuple(batched), randomness="different")(
            *tensors
        )
        return tree_map_only(Tensor, lambda tensor: tensor.flatten(0, 1), result)
    except (RuntimeError, ValueError, IndexError, TypeError, NotImplementedError) as error:
        raise NoRule((), f"has no rule for one call over units ({_first_line(error)})") from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]


def _like(func: Any, copies: UnitCopies, first: Any, *args: Any, **kwargs: Any) -> Any:
    """Functions that take only type or shape from their other arguments."""
    result = func(first, *args, **kwargs)
    return copies.derive(result, (first,)) if copies.tracks(first) else result


def _variants(*names: str) -> list[Any]:
    """The functions of torch and Tensor of these names, with in-place and operator forms."""
    forms = [
        form
        for name in names
        for form in (name, f"{name}_", f"__{name}__", f"__r{name}__", f"__i{name}__")
    ]
    found = (getattr(place, form, None) for form in forms for place in (torch, Tensor))
    return [function for function in found if function is not None]


_NOT_IN_PLACE = {"__init__", "__int__", "__index__", "__invert__"}
_BROADCASTING = (
    "add sub subtract rsub mul multiply div divide true_divide truediv pow maximum minimum"
)
_LIKE = (
    "to type_as view_as reshape_as zeros_like ones_like empty_like full_like rand_like randn_like "
    "new_zeros new_ones new_full new_empty new_tensor"
)

RULES: dict[Any, Callable[..., Any]] = {
    f: partial(elementwise, f) for f in _variants(*_BROADCASTING.split())
}

EXPANSIONS: dict[Any, Callable[..., Any]] = {
    Tensor.expand: _expand,
    Tensor.broadcast_to: _expand,
    torch.broadcast_to: _expand,
    Tensor.expand_as: _expand_as,
    Tensor.repeat: _repeat,
    **{f: partial(_like, f) for f in _variants(*_LIKE.split())},
}

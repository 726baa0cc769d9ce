"""Whether what a pass assigned to each unit is that unit's alone, once for each kind of call.

The gradient of one unit's loss with respect to another unit's copies is exactly zero, unless rows
were taken for the wrong unit's (a tensor in an unusual layout) or the loss mixes units. Both show
in one more backward pass from the loss of a single unit. A use whose gradient is zero so far
(behind a layer that starts at zero) shows nothing; it stays open and is looked at again when its
gradient first differs from zero.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import FunctionType, MethodType
from typing import Any
from weakref import WeakKeyDictionary, ref

import torch
from torch import Tensor, nn

from dpdm.privacy.gradients.handover import autograd_backward
from dpdm.privacy.gradients.holding import parts_of
from dpdm.privacy.gradients.refusal import NoRule

_MOST_KINDS = 64


@dataclass
class Known:
    """What is known of one kind of call: the same module, loss, shapes and mode."""

    one_by_one: bool = False  # units must be passed through the module one by one
    compared: bool = False  # the losses were found equal to those of the module as it is
    probed: bool = False  # the first and the last unit were looked at
    settled: bool = False  # every use was verified at the last call
    together: int | None = None  # units that pass at once, where it was looked at
    # Uses whose gradients were seen to stay within units.
    verified: set[Any] = field(default_factory=set)


_known: WeakKeyDictionary[nn.Module, dict[Any, Known]] = WeakKeyDictionary()


def known(module: nn.Module, loss: Any, inputs: Sequence[Tensor | None], views: int) -> Known:
    """What earlier calls of this kind found; held outside of the module, as long as it lives."""
    kinds = _known.setdefault(module, {})
    kind = (
        _identity(loss),
        views,
        tuple((x.shape, x.dtype, x.device) if isinstance(x, Tensor) else None for x in inputs),
        tuple((id(m), m.training) for m in module.modules()),
        tuple((id(p), p.requires_grad) for p in module.parameters()),
    )
    if kind not in kinds and len(kinds) >= _MOST_KINDS:
        kinds.clear()
    return kinds.setdefault(kind, Known())


def _identity(value: Any, depth: int = 4) -> Any:
    """What tells a loss, or what it holds, from another.

    Functions may be made anew for every step: they are equal where their code is, and what they
    hold is: arguments of a ``partial``, closure, defaults, the object of a method. Plain values
    are themselves, tensors their shape, all else is the object that it is, no longer than it lives.
    """
    if depth and isinstance(value, list | tuple | dict):
        inner = (*value.items(),) if isinstance(value, dict) else value
        return type(value), tuple(_identity(part, depth - 1) for part in inner)
    if depth and isinstance(value, partial | MethodType | FunctionType):
        return tuple(_identity(part, depth - 1) for part in parts_of(value))
    if isinstance(value, Tensor) and not isinstance(value, nn.Parameter):
        return Tensor, value.shape, value.dtype, value.device
    try:
        return _Object(value)
    except TypeError:  # no weak references to it: numbers, text, a dtype, a device
        return type(value), value if isinstance(value, Hashable) else object()


class _Object:
    """Equal for the same object as long as it lives, which this does not prolong."""

    def __init__(self, value: Any) -> None:
        self._reference, self._number = ref(value), id(value)

    def __hash__(self) -> int:
        return self._number

    def __eq__(self, other: object) -> bool:
        found = self._reference()
        return isinstance(other, _Object) and found is not None and found is other._reference()


class Verification:
    """Looks, in one pass, at the uses that are not verified yet.

    Args:
        found: what is known; updated.
        means: (U,) mean losses with their graph.
        leaves: the copies, each (U, *shape).
        uses: for every leaf the names behind it and its shape.
    """

    def __init__(
        self,
        found: Known,
        means: Tensor,
        leaves: Sequence[Tensor],
        uses: Sequence[tuple[str, tuple[int, ...]]],
    ) -> None:
        self._found = found
        self._means = means
        self._leaves = leaves
        self._names = [names for names, _ in uses]
        self._keys = list(enumerate(uses))

    def open(self) -> list[int]:
        """The leaves that still have to be seen; none where there is only one unit."""
        if len(self._means) < 2:
            return []
        return [i for i, key in enumerate(self._keys) if key not in self._found.verified]

    def first(self) -> None:
        """Look from the first and last unit, once; NoRule where a gradient crosses units."""
        if not self._found.probed and (leaves := self.open()):
            self._look(0, leaves)
            self._look(len(self._means) - 1, leaves)
            self._found.probed = True

    def rest(self, gradients: Sequence[Tensor | None]) -> None:
        """Look at what is open and has a gradient now, from a unit that has it; NoRule likewise."""
        waiting = {
            i: sizes
            for i in self.open()
            if (gradient := gradients[i]) is not None and (sizes := _sizes(gradient)).any()
        }
        while waiting:
            i, sizes = next(iter(waiting.items()))
            seen = self._look(int(sizes.argmax()), list(waiting))
            waiting = {j: s for j, s in waiting.items() if j not in seen and j != i}
        if len(self._means) > 1 or not self._found.probed:  # not by a last part of one unit
            self._found.settled = not self.open()

    def _look(self, unit: int, leaves: Sequence[int]) -> set[int]:
        sizes: dict[int, Tensor] = {}

        def measure(i: int, leaf: Tensor) -> None:
            """As soon as a gradient is there, so that no two of them are held together."""
            assert leaf.grad is not None
            sizes[i] = _sizes(leaf.grad)
            leaf.grad = None

        hooks = [
            self._leaves[i].register_post_accumulate_grad_hook(partial(measure, i))  # type: ignore[no-untyped-call]
            for i in leaves
        ]
        try:
            autograd_backward(
                self._means[unit], retain_graph=True, inputs=[self._leaves[i] for i in leaves]
            )
        finally:
            for hook in hooks:
                hook.remove()
        crossing, seen = [], set()
        for i, found in sizes.items():
            if found[unit] > 0:
                seen.add(i)
            found[unit] = 0
            if found.any():
                crossing.append(self._names[i])
        if crossing:
            raise NoRule(crossing, "one unit's loss reaches the rows of another")
        self._found.verified.update(self._keys[i] for i in seen)
        return seen


def _sizes(gradient: Tensor) -> Tensor:
    """(U, ...) -> (U,) largest absolute entries; NaN, which is 0 * inf, shows nothing."""
    if not gradient.numel():
        return gradient.new_zeros(len(gradient))
    rows = gradient.reshape(len(gradient), -1)
    sizes: Tensor = torch.linalg.vector_norm(rows, torch.inf, dim=1)
    return sizes.nan_to_num(nan=0.0)

"""One pass over all units in which every use of a parameter is given its per-unit gradient.

While the loss runs, a parameter p of shape S stands for U equal copies of itself, an expanded leaf
of shape (U, *S) that takes no memory. Functions that use p are intercepted: the forward is computed
once with p, the backward contracts the views and positions of each unit and returns the gradient of
the copies, d mean_v loss_uv / d p for every u. Uses add up through autograd itself, so that tied
weights, repeated modules and branches need no care.

A tensor computed from parameters alone (a normalised, cast, sliced or transposed weight) is copied
in the same way, and its per-unit gradients are pulled back to the parameters afterwards, unit by
unit, by linearity.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from dpdm.privacy.gradients.refusal import NoRule
from dpdm.privacy.gradients.rules import EXPANSIONS, RULES, any_function, refuse_batch_statistics


class Layout(NamedTuple):
    """Where the rows of units lie in the leading dimensions of a tensor: (before, rows, after)."""

    before: int
    rows: int
    after: int

    def by_unit(self, tensor: Tensor, units: int, features: Sequence[int]) -> Tensor:
        """(..., *features) -> (U, everything of the unit, *features)."""
        split = tensor.reshape(self.before, units, self.rows // units, self.after, *features)
        return split.movedim(1, 0).reshape(units, -1, *features)


class _Use(NamedTuple):
    source: Tensor  # with its graph to the parameters, as it was when it was used
    copies: Tensor  # leaf, (U, *source.shape)
    names: frozenset[str]


class UnitCopies(TorchFunctionMode):
    """Replaces, while active, every differentiable use of parameters by its per-unit form.

    Args:
        parameters: name -> parameter that requires a gradient.
        constants: tensors known not to depend on the inputs (the module's buffers).
        units: U.
        rows: U*V, the first dimension of the inputs; the rows of a unit are adjacent.
    """

    def __init__(
        self, parameters: Mapping[str, Tensor], constants: Iterable[Tensor], units: int, rows: int
    ) -> None:
        super().__init__()
        self.units = units
        self.rows = rows
        self.general_used = False
        self._sources = {id(p): (p, frozenset((name,))) for name, p in parameters.items()}
        self._parameters = dict(parameters)
        self._constants = {id(constant): constant for constant in constants}
        self._uses: dict[tuple[int, int], _Use] = {}
        self._time_major: int | None = None

    # What the rules ask.

    def tracks(self, value: object) -> bool:
        """Whether value is a parameter, or computed from parameters alone."""
        return id(value) in self._sources

    def of(self, tensor: Tensor) -> Tensor:
        """The per-unit copies (U, *shape) of a tracked tensor, or of one that needs no gradient.

        Raises NoRule for a tensor that depends on the data and on parameters: its rows are not
        copies.
        """
        if not self.tracks(tensor):
            if tensor.requires_grad:
                raise NoRule((), "a weight that is computed from the data")
            return tensor.detach().expand(self.units, *tensor.shape)
        key = (id(tensor), tensor._version)
        use = self._uses.get(key)
        if use is None:
            source, names = self._sources[id(tensor)]
            copies = source.detach().expand(self.units, *source.shape).requires_grad_()
            # As it is now: an in-place change must not alter what this use is pulled back through.
            source = source if source.is_leaf else source.view_as(source)
            use = self._uses[key] = _Use(source, copies, names)
        return use.copies

    def dimension(self, shape: Sequence[int]) -> int | None:
        """The dimension that holds the rows of the units, or None.

        The first one of exactly U*V; else the first of all, if U*V divides it (patches or windows
        folded into the batch). What this guesses wrong is found by verification.py.
        """
        if self._time_major is not None:
            return 1 if len(shape) > 1 and shape[1] == self._time_major else None
        if self.rows in shape:
            return list(shape).index(self.rows)
        return 0 if len(shape) and shape[0] and shape[0] % self.rows == 0 else None

    def layout(self, leading: Sequence[int]) -> Layout | None:
        """The rows of the units within the leading dimensions of a tensor, or None."""
        count = torch.Size(leading).numel()
        if self._time_major is not None:
            times, rest = divmod(count, self._time_major)
            return None if rest or not times else Layout(times, self._time_major, 1)
        d = self.dimension(leading)
        if d is None:
            return None
        before = torch.Size(leading[:d]).numel()
        return Layout(before, leading[d], torch.Size(leading[d + 1 :]).numel())

    @contextmanager
    def time_major(self, batch: int) -> Iterator[None]:
        """Within: leading dimensions are (time, batch), flattened or not, as in attention."""
        if batch % self.rows:
            raise NoRule((), "multi-head attention over something else than the batch of inputs")
        previous, self._time_major = self._time_major, batch
        try:
            with self:
                yield
        finally:
            self._time_major = previous

    @property
    def batch(self) -> int:
        """The size of a dimension that holds the rows of the units."""
        return self._time_major or self.rows

    def names(self, values: Iterable[object]) -> frozenset[str]:
        """The names of the parameters that the tracked ones among values come from."""
        found = (self._sources[id(value)][1] for value in values if self.tracks(value))
        return frozenset[str]().union(*found)

    def derive(self, result: Any, sources: Iterable[object]) -> Any:
        """Track what was computed from tracked tensors alone."""
        names = self.names(sources)
        for tensor in _tensors((result,)):
            if tensor.requires_grad and not self.tracks(tensor):
                self._sources[id(tensor)] = (tensor, names)
        return result

    def is_data(self, tensor: Tensor) -> bool:
        """Whether an untracked tensor has, or may have, rows of its own for each unit."""
        if id(tensor) in self._constants:
            return False
        return tensor.requires_grad or self.dimension(tensor.shape) is not None

    # Interception.

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        refuse_batch_statistics(func, args, kwargs)
        if not torch.is_grad_enabled():
            return func(*args, **kwargs)
        tensors = list(_tensors((*args, *kwargs.values())))
        if not any(id(tensor) in self._sources for tensor in tensors):
            result = func(*args, **kwargs)
            if func is torch.arange:  # positions, looked up in a table that all rows share
                self._constants[id(result)] = result
            return result
        try:
            return self._intercept(func, args, kwargs, tensors)
        except NoRule as error:
            name = getattr(func, "__name__", str(func))
            names = error.names or sorted(self.names(tensors))
            raise NoRule(names, f"{name}: {error.use}") from error

    def _intercept(
        self, func: Any, args: tuple[Any, ...], kwargs: Any, tensors: Sequence[Tensor]
    ) -> Any:
        if torch._C._functorch.peek_interpreter_stack() is not None:
            raise NoRule((), "a torch.func transform within the loss")
        if func in EXPANSIONS:
            result = EXPANSIONS[func](self, *args, **kwargs)
            if result is not NotImplemented:
                return result
        if not any(not self.tracks(tensor) and self.is_data(tensor) for tensor in tensors):
            return self.derive(func(*args, **kwargs), tensors)
        rule = RULES.get(func)
        result = NotImplemented if rule is None else rule(self, *args, **kwargs)
        if result is NotImplemented:
            self.general_used = True
            result = any_function(self, func, args, kwargs)
        return result

    # What the engine asks afterwards.

    @property
    def leaves(self) -> list[Tensor]:
        """The copies in the order of their first use, each (U, *shape)."""
        return [use.copies for use in self._uses.values()]

    @property
    def uses(self) -> list[tuple[str, tuple[int, ...]]]:
        """For every leaf the names behind it and its shape."""
        return [
            (", ".join(sorted(use.names)), tuple(use.source.shape)) for use in self._uses.values()
        ]

    def gather(self, gradients: Sequence[Tensor | None]) -> dict[str, Tensor]:
        """Per-unit gradients of the leaves -> name -> (U, *shape), zero for unused parameters."""
        names = {id(p): name for name, p in self._parameters.items()}
        total: dict[str, Tensor] = {}
        pulled: list[tuple[Tensor, Tensor]] = []
        for use, gradient in zip(self._uses.values(), gradients, strict=True):
            if gradient is None:
                continue
            if use.source.is_leaf:
                _accumulate(total, names[id(use.source)], gradient)
            else:
                pulled.append((use.source, gradient))
        if pulled:
            back = torch.autograd.grad(
                [source for source, _ in pulled],
                list(self._parameters.values()),
                [gradient for _, gradient in pulled],
                is_grads_batched=True,
                allow_unused=True,
            )
            for name, gradient in zip(self._parameters, back, strict=True):
                if gradient is not None:
                    _accumulate(total, name, gradient)
        return {
            name: total[name] if name in total else p.new_zeros((self.units, *p.shape))
            for name, p in self._parameters.items()
        }


def _accumulate(total: dict[str, Tensor], name: str, gradient: Tensor) -> None:
    total[name] = total[name] + gradient if name in total else gradient


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """The tensors among arguments, in lists and tuples too (cat, einsum, recurrent weights)."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)

"""Finding by trial where one unit influences another's loss.

Everything but one unit's rows is changed; that unit's loss must not move, and no buffer of the
module may have taken up the change. Where a loss moves, the run is repeated with every submodule's
inputs and outputs watched: the first place where the kept unit's rows differ is to blame, and is
put right before the run goes on, so that every place is found.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from dpdm.privacy.gradients.refusal import UnsupportedModuleError, refused
from dpdm.privacy.gradients.trial import (
    SEED,
    jittered,
    largest_difference,
    plain_losses,
    rows_of,
    undisturbed,
    with_others_changed,
    with_two_units,
)

_MIXES = "lets one unit change another's loss: compute nothing over the batch dimension"
_KEEPS = "keeps something of the data in its buffer '{}': release it through a mechanism or drop it"

Run = Callable[[Sequence[Tensor | None]], Tensor]


def refuse_mixing(
    module: nn.Module, loss: Callable[..., Tensor], inputs: Sequence[Tensor | None], views: int
) -> None:
    """Raise an UnsupportedModuleError naming the submodules found to mix units or keep data.

    Random layers draw the same numbers in the runs that are compared. What a loss draws from a
    generator of its own cannot be held fixed and hides an influence smaller than the draw's.
    """
    trial, units = with_two_units(inputs, views)
    with jittered(module):
        for keep in dict.fromkeys((0, units - 1)):
            _refuse_mixing(module, loss, trial, views, keep)


def _refuse_mixing(
    module: nn.Module,
    loss: Callable[..., Tensor],
    inputs: Sequence[Tensor | None],
    views: int,
    keep: int,
) -> None:
    buffers: list[dict[str, Tensor]] = []

    def run(values: Sequence[Tensor | None]) -> Tensor:
        with undisturbed(module, values, SEED):
            losses = plain_losses(module, loss, values, views)
            buffers.append({name: b.detach().clone() for name, b in module.named_buffers()})
        return losses

    changed = with_others_changed(inputs, views, keep)
    first, again, other = run(inputs), run(inputs), run(changed)
    noise = 4 * largest_difference(first[keep], again[keep])
    if largest_difference(first[keep], other[keep]) > noise:
        watch = _Watch(module, rows_of(inputs), rows_of(inputs) // views, keep)
        raise watch.blame(run, inputs, changed)
    reasons: dict[str, str] = {}
    for name, value in buffers[0].items():
        noise = 4 * largest_difference(value, buffers[1][name])
        if largest_difference(value, buffers[2][name]) > noise:
            path, _, buffer = name.rpartition(".")
            reasons[path] = _KEEPS.format(buffer)
    if reasons:
        raise refused(module, reasons)


class _Watch:
    """Compares, between two runs, what enters and leaves every submodule for the kept unit."""

    def __init__(self, module: nn.Module, rows: int, units: int, keep: int) -> None:
        self._module = module
        self._rows, self._units, self._keep = rows, units, keep
        self._seen: dict[tuple[str, int, str, int], Tensor] = {}
        self._recording = True
        self._calls: Counter[tuple[str, str]] = Counter()
        self._callers: list[str] = []
        self._blamed: dict[str, None] = {}
        self._loss_blamed = False

    def blame(
        self,
        run: Run,
        inputs: Sequence[Tensor | None],
        changed: Sequence[Tensor | None],
    ) -> UnsupportedModuleError:
        """The error for a module whose kept unit's loss moves from ``inputs`` to ``changed``."""
        with self._watching():
            first = run(inputs)
            self._recording = False
            self._calls.clear()
            other = run(changed)
        moved = largest_difference(first[self._keep], other[self._keep]) > 0
        if not (self._blamed or self._loss_blamed or moved):
            self._blamed[""] = None
        reasons = dict.fromkeys(self._blamed, _MIXES)
        if reasons:
            return refused(self._module, reasons)
        return UnsupportedModuleError(
            "no promise per unit can be given: the loss function itself "
            f"(outside of every submodule) {_MIXES}"
        )

    @contextmanager
    def _watching(self) -> Iterator[None]:
        with ExitStack() as hooks:
            for path, submodule in self._module.named_modules():
                for handle in (
                    submodule.register_forward_pre_hook(self._before(path), with_kwargs=True),
                    submodule.register_forward_hook(self._after(path), with_kwargs=True),
                ):
                    hooks.callback(handle.remove)
            yield

    def _before(self, path: str) -> Callable[..., Any]:
        def hook(_: nn.Module, args: Any, kwargs: Any) -> Any:
            caller = self._callers[-1] if self._callers else None
            self._callers.append(path)
            return self._compared((args, kwargs), path, "in", caller)

        return hook

    def _after(self, path: str) -> Callable[..., Any]:
        def hook(_: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:
            self._callers.pop()
            return self._compared(output, path, "out", path)

        return hook

    def _compared(self, values: Any, path: str, side: str, to_blame: str | None) -> Any:
        """values with the kept unit's rows as in the first run; who made them differ is blamed."""
        call = self._calls[path, side]
        self._calls[path, side] += 1
        place = 0

        @torch.no_grad()
        def compared(tensor: Tensor) -> Tensor:
            nonlocal place
            key, place = (path, call, side, place), place + 1
            own = self._own(tensor)
            if own is None:
                return tensor
            if self._recording:
                self._seen[key] = own.detach().clone()
            elif key in self._seen and largest_difference(own, self._seen[key]) > 0:
                if to_blame is None:
                    self._loss_blamed = True
                else:
                    self._blamed[to_blame] = None
                if own.shape == self._seen[key].shape:
                    tensor = tensor.clone()
                    repaired = self._own(tensor)
                    assert repaired is not None
                    repaired.copy_(self._seen[key])
            return tensor

        return tree_map_only(Tensor, compared, values)

    def _own(self, tensor: Tensor) -> Tensor | None:
        """The kept unit's part of a tensor, a view; None where no dimension holds rows."""
        shape = tuple(tensor.shape)
        if self._rows in shape:
            d = shape.index(self._rows)
        elif shape and shape[0] and shape[0] % self._rows == 0:
            d = 0
        else:
            return None
        count = shape[d] // self._units
        return tensor.narrow(d, self._keep * count, count)

"""How many units go through the module together where not all of them need to.

A processor's allocator may hand large tensors back to the kernel as soon as they are freed, which
then faults in and zeroes every page again for the next one: at 8 units of 16 views of the paper's
U-Net a twelfth of the time. In parts of units, each small enough to be kept, the same pass takes
less time and a third less memory. The gradients are those of one pass but for the last bits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from dpdm.allocator import LARGEST_KEPT, hands_back_large_blocks
from dpdm.memory import saved_for_backward
from dpdm.privacy.gradients.eager import FORCED_EAGER
from dpdm.privacy.gradients.holding import holds_rows
from dpdm.privacy.gradients.trial import (
    SEED,
    in_parts,
    jittered,
    mean_losses,
    rows_of,
    undisturbed,
)

Loss = Callable[..., Tensor]
Inputs = Sequence[Tensor | None]

_FEWEST = 2
"""Units of a part: one alone would not show that a loss mixes units."""

_SMALL_INPUTS = 2**16
"""Bytes of inputs that are too few to become large tensors: none is looked for."""

_ROUNDING = 1e-4
"""Of a unit's loss; one that differs by more is not that of the unit's own rows."""


def units_together(module: nn.Module, loss: Loss, inputs: Inputs, views: int) -> int:
    """The units of a part: all of them, unless parts are faster and certain to be the same.

    They are where a large tensor is handed back, the loss holds nothing else that could be rows,
    and the losses of parts equal those of all rows at once, unit by unit, on parameters that are a
    little off. So a loss that reads rows from elsewhere than its inputs, would draw other random
    numbers or leaves something behind in the module sees all rows, as it is written to.
    """
    units = rows_of(inputs) // views
    given = [x for x in inputs if x is not None]
    on_cpu = all(x.device.type == "cpu" for x in given)
    small = sum(x.nbytes for x in given) < _SMALL_INPUTS
    if units <= _FEWEST or small or not on_cpu or not hands_back_large_blocks():
        return units
    try:
        with FORCED_EAGER:
            largest = units * _largest_saved(module, loss, inputs, views)
            part = max(_FEWEST, math.ceil(units / math.ceil(largest / LARGEST_KEPT)))
            if part < units and not holds_rows(loss, part * views):
                with jittered(module):
                    if _same(module, loss, inputs, views, part):
                        return part
    except Exception:
        return units
    return units


def one_after_another(
    one_pass: Callable[[Inputs], tuple[Tensor, dict[str, Tensor]]],
    inputs: Inputs,
    views: int,
    part: int,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Losses (U,) and name -> (U, *shape) of ``one_pass`` over ``part`` units after the other."""
    units = rows_of(inputs) // views
    if part >= units:
        return one_pass(inputs)
    losses = list[Tensor]()
    gradients = dict[str, Tensor]()
    for some, own in in_parts(inputs, views, part):
        means, found = one_pass(own)
        losses.append(means)
        for name in list(found):
            gradient = found.pop(name)  # let go as soon as it is copied
            if name not in gradients:
                gradients[name] = gradient.new_empty((units, *gradient.shape[1:]))
            gradients[name][some] = gradient
    return torch.cat(losses), gradients


def _largest_saved(module: nn.Module, loss: Loss, inputs: Inputs, views: int) -> int:
    """Bytes of the largest storage that one unit's forward pass makes for its backward one."""
    there = [*module.parameters(), *module.buffers(), *(x for x in inputs if x is not None)]
    addresses = {tensor.untyped_storage().data_ptr() for tensor in there}
    _, own = next(in_parts(inputs, views, 1))
    with undisturbed(module, inputs), torch.enable_grad(), saved_for_backward() as saved:
        loss(module, *own)
    return max((size for address, size in saved.items() if address not in addresses), default=1)


def _same(module: nn.Module, loss: Loss, inputs: Inputs, views: int, part: int) -> bool:
    """Whether the losses of parts are those of all rows, and nothing in the module changes."""
    buffers = [buffer.clone() for buffer in module.buffers()]

    def losses(inputs: Inputs) -> Tensor:
        return mean_losses(loss(module, *inputs), rows_of(inputs), views)

    with torch.no_grad():
        with undisturbed(module, inputs, SEED):
            together = losses(inputs)
            if not all(map(torch.equal, buffers, module.buffers())):
                return False
        with undisturbed(module, inputs, SEED):
            apart = torch.cat([losses(own) for _, own in in_parts(inputs, views, part)])
    close = (together - apart).abs() <= _ROUNDING * together.abs()  # not where either is no number
    return bool((close & together.isfinite()).all())

"""Whether a promise per unit can be given for a module, before any private image is touched."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from dpdm.privacy.gradients.engine import checked_rows, per_unit_gradients
from dpdm.privacy.gradients.mixing import refuse_mixing
from dpdm.privacy.gradients.refusal import refuse_by_type, refused
from dpdm.privacy.gradients.trial import (
    SEED,
    jittered,
    largest_difference,
    undisturbed,
    with_others_changed,
    with_two_units,
)

# Rounding of sums whose order is not fixed on a GPU, relative to the largest entry; an influence is
# far above it.
_ROUNDING = 1e-6


def validate(
    module: nn.Module,
    loss: Callable[..., Tensor],
    inputs: Sequence[Tensor | None],
    views: int = 1,
) -> None:
    """Refuse a module whose per-unit gradients would bound nothing.

    By type (batch normalisation and its like), and by trying: with every other unit's inputs
    changed, a unit's loss and its per-unit gradient must not move, and no buffer may keep what the
    module saw. The module is tried with its parameters slightly off, since layers that start at
    zero hide what is behind them; parameters, buffers and random state are put back. A single unit
    is tried beside a changed copy of itself.

    Args:
        module, loss, inputs, views: as for ``per_unit_gradients``; the inputs need not be real
        data.

    Raises:
        UnsupportedModuleError: names every offending submodule by its dotted path (``.paths``).
        RequestError: as ``per_unit_gradients``.
    """
    checked_rows(inputs, views)
    refuse_by_type(module)
    refuse_mixing(module, loss, inputs, views)
    trial, units = with_two_units(inputs, views)

    def own(values: Sequence[Tensor | None], keep: int) -> dict[str, Tensor]:
        with undisturbed(module, values, SEED):
            _, gradients = per_unit_gradients(module, loss, values, views)
        return {name: gradient[keep].clone() for name, gradient in gradients.items()}

    crossing: dict[str, str] = {}
    with jittered(module):
        for keep in dict.fromkeys((0, units - 1)):
            first, again = own(trial, keep), own(trial, keep)
            other = own(with_others_changed(trial, views, keep), keep)
            for name, gradient in first.items():
                scale = (
                    float(torch.linalg.vector_norm(gradient, torch.inf))
                    if gradient.numel()
                    else 0.0
                )
                noise = 4 * largest_difference(gradient, again[name]) + _ROUNDING * scale
                if largest_difference(gradient, other[name]) > noise:
                    path, _, parameter = name.rpartition(".")
                    crossing[path] = (
                        f"lets one unit change another's gradient of '{parameter}': "
                        "compute nothing over the batch dimension"
                    )
    if crossing:
        raise refused(module, crossing)

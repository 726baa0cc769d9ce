"""The slower path: one ordinary gradient for each unit, for what the shared pass has no rule for.

It needs nothing of the module but that a unit's loss depends on the unit's own rows, which
``admit`` finds out first.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from dpdm.privacy.gradients.mixing import refuse_mixing
from dpdm.privacy.gradients.refusal import NoRule, UnsupportedModuleError
from dpdm.privacy.gradients.trial import (
    SEED,
    in_parts,
    largest_difference,
    mean_losses,
    plain_losses,
    rows_of,
    undisturbed,
)

Loss = Callable[..., Tensor]
Inputs = Sequence[Tensor | None]


def admit(module: nn.Module, loss: Loss, inputs: Inputs, views: int, reason: NoRule) -> None:
    """Raise UnsupportedModuleError unless a unit's loss can be computed from the unit's rows alone.

    Called where the shared pass raised ``reason``: names in the error say what was without a rule.
    """
    units = rows_of(inputs) // views
    if units == 1:
        return
    refuse_mixing(module, loss, inputs, views)

    def run(values: Inputs, seed: int) -> Tensor:
        with undisturbed(module, values, seed):
            return plain_losses(module, loss, values, views)

    paths = tuple(dict.fromkeys(name.rpartition(".")[0] for name in reason.names))
    try:
        together = run(inputs, SEED)
        apart = torch.cat([run(own, SEED) for _, own in in_parts(inputs, views, 1)])
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        raise UnsupportedModuleError(
            f"no per-unit gradient for {reason}; and the loss of one unit alone fails: "
            f"{(str(error).splitlines() or [''])[0]}",
            paths,
        ) from error
    if torch.equal(together, run(inputs, SEED + 1)) and not agree(together, apart):
        raise UnsupportedModuleError(
            f"no per-unit gradient for {reason}; and the loss of a unit alone is not its loss "
            "within the batch: let it depend on the unit's own rows only",
            paths,
        )


def one_by_one(
    module: nn.Module,
    loss: Loss,
    inputs: Inputs,
    views: int,
    parameters: Mapping[str, Tensor],
) -> tuple[Tensor, dict[str, Tensor]]:
    """(losses (U,), name -> (U, *shape)): the loss is called once for each unit, on its V rows."""
    units = rows_of(inputs) // views
    gradients = {name: p.new_zeros((units, *p.shape)) for name, p in parameters.items()}
    means = []
    for u, (_, own) in enumerate(in_parts(inputs, views, 1)):
        with torch.enable_grad():
            mean = mean_losses(loss(module, *own), views, views)[0]
        means.append(mean.detach())
        if not (parameters and mean.requires_grad):
            continue
        with torch.autocast(mean.device.type, enabled=False):
            found = torch.autograd.grad(mean, list(parameters.values()), allow_unused=True)
        for gradient, own_gradient in zip(gradients.values(), found, strict=True):
            if own_gradient is not None:
                gradient[u] = own_gradient
    return torch.stack(means), gradients


def agree(a: Tensor, b: Tensor) -> bool:
    """Whether two ways to compute losses agree up to rounding; a wrong one is off by far more."""
    tolerance = 1e-9 if a.dtype == torch.float64 else 1e-2
    if torch.is_autocast_enabled(a.device.type):
        tolerance = 0.1
    scale = float(a.abs().nan_to_num(posinf=0.0, neginf=0.0).max())
    return largest_difference(a, b) <= tolerance * scale

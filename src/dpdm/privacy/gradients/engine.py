"""Per-unit gradients of any module and loss, at about the price of one ordinary gradient.

For unit u with views v, g_u = d/dp (1/V) sum_v loss_uv: the gradient of the unit's mean loss, which
is what DP-SGD clips (with one image to a unit, the paper's noise multiplicity, eq. 7). One forward
and one backward over all U*V rows, or over a few parts of them; the weight gradients are contracted
over the rows of a unit where they arise, so that nothing of size U*V*P exists.

What cannot be had in this way is computed one unit at a time, with a warning, or refused by name.
It is never wrong silently: a parameter that reaches the loss past the rules is noticed on every
call, and a gradient that crosses units the first time that a kind of call shows it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from dpdm.errors import RequestError
from dpdm.privacy.gradients.eager import FORCED_EAGER
from dpdm.privacy.gradients.handover import autograd_grad
from dpdm.privacy.gradients.interception import UnitCopies
from dpdm.privacy.gradients.one_by_one import admit, agree, one_by_one
from dpdm.privacy.gradients.parts import one_after_another, units_together
from dpdm.privacy.gradients.refusal import NoRule, UnsupportedModuleError, refuse_by_type
from dpdm.privacy.gradients.trial import SEED, mean_losses, plain_losses, rows_of, undisturbed
from dpdm.privacy.gradients.verification import Known, Verification, known


def per_unit_gradients(
    module: nn.Module,
    loss: Callable[..., Tensor],
    inputs: Sequence[Tensor | None],
    views: int = 1,
    *,
    whole: bool = False,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The gradient of each unit's mean loss, for every parameter that requires a gradient.

    Whether units are kept apart is looked at once for each module, mode, shape of inputs and loss,
    with what the loss holds (arguments of a ``partial``, closure, the object of a method). What
    else a ``forward`` or a loss reads, as an attribute or a global variable, should stay as it is
    between calls.

    On a CPU a large pass may be made in parts of units, which takes less time and memory: where
    the losses of parts were found equal to those of all rows.

    Args:
        module: any module; it is called as it is, in the mode it is in, and left as it was. Of a
            compiled one (``torch.compile``) the eager form is called.
        loss: ``loss(module, *inputs)`` returns the (U*V,) losses.
        inputs: tensors of first dimension U*V, the views of a unit adjacent; None is passed on.
        views: V.
        whole: one pass over all rows in any case.

    Returns:
        The (U,) mean losses, detached, and for every parameter that requires a gradient its name
        (as in ``named_parameters``) and a (U, *shape) tensor in the parameter's precision; zeros
        where the loss does not depend on it. Under autocast, called within it or used by the loss,
        parameters and gradients stay float32.

    Raises:
        UnsupportedModuleError: batch normalisation and its like, by their dotted paths; a loss that
            is found to mix units; a module without a rule that cannot be passed one unit at a time.
        RequestError: a module that is none, views that do not divide the rows, inputs of unequal
            length, losses of another shape or of whole numbers.
    """
    if not isinstance(module, nn.Module):
        raise RequestError(f"module must be a torch.nn.Module, not {type(module).__name__}")
    rows = checked_rows(inputs, views)
    refuse_by_type(module)
    parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
    found = known(module, loss, inputs, views)
    if not found.one_by_one:
        together = rows // views
        if not whole:
            if found.together is None:
                found.together = units_together(module, loss, inputs, views)
            together = found.together
        one_pass = partial(_shared, module, loss, views, parameters, found)
        try:
            return one_after_another(one_pass, inputs, views, together)
        except NoRule as reason:
            admit(module, loss, inputs, views, reason)
            warnings.warn(
                f"per_unit_gradients passes units one by one, which is slower: {reason}",
                stacklevel=2,
            )
            found.one_by_one = True
    return one_by_one(module, loss, inputs, views, parameters)


def settled(
    module: nn.Module,
    loss: Callable[..., Tensor],
    inputs: Sequence[Tensor | None],
    views: int = 1,
) -> bool:
    """Whether earlier calls of this kind left nothing to find out.

    Another call then does the same operations in the same order, whatever the values are, and waits
    for none: it can be recorded.
    """
    found = known(module, loss, inputs, views)
    return found.settled and not found.one_by_one


def checked_rows(inputs: Sequence[Tensor | None], views: int) -> int:
    """U*V, the first dimension of all inputs; RequestError where they or ``views`` do not fit."""
    if not isinstance(inputs, tuple | list):
        raise RequestError(f"inputs must be a tuple of tensors, not {type(inputs).__name__}")
    wrong = [type(x).__name__ for x in inputs if not (x is None or isinstance(x, Tensor))]
    if wrong:
        raise RequestError(f"inputs must be tensors or None, not {wrong[0]}")
    shapes = [tuple(x.shape) for x in inputs if x is not None]
    lengths = {shape[0] if shape else 0 for shape in shapes}
    if len(lengths) != 1 or 0 in lengths:
        raise RequestError(
            "inputs must have one first dimension in common, units times views; "
            f"got shapes {shapes}"
        )
    (rows,) = lengths
    if isinstance(views, bool) or not isinstance(views, int) or views < 1 or rows % views:
        raise RequestError(f"views={views!r} must be a whole number that divides the {rows} rows")
    return rows


def _shared(
    module: nn.Module,
    loss: Callable[..., Tensor],
    views: int,
    parameters: Mapping[str, nn.Parameter],
    found: Known,
    inputs: Sequence[Tensor | None],
) -> tuple[Tensor, dict[str, Tensor]]:
    """One pass over all units. Raises NoRule where a rule is missing or a check fails."""
    rows = rows_of(inputs)
    copies = UnitCopies(parameters, module.buffers(), rows // views, rows)
    # The backward pass is intercepted too: there checkpointed parts are computed again. Compiled
    # code would pass the interception by, so that its eager form is run.
    with FORCED_EAGER, torch.enable_grad(), copies:
        means = mean_losses(loss(module, *inputs), rows, views)
        try:
            gradients = _backward(means, copies, parameters, found)
        except RuntimeError as error:
            if "use_reentrant" not in str(error):
                raise
            raise UnsupportedModuleError(
                "the module checkpoints activations with use_reentrant=True, which hides its "
                "parameters from the backward pass: set use_reentrant=False"
            ) from error
    if copies.general_used and not found.compared:
        _compare(module, loss, inputs, views, parameters)
        found.compared = True
    return means.detach(), copies.gather(gradients)


def _compare(
    module: nn.Module,
    loss: Callable[..., Tensor],
    inputs: Sequence[Tensor | None],
    views: int,
    parameters: Mapping[str, nn.Parameter],
) -> None:
    """Raise NoRule unless the losses, intercepted or not, are equal for equal random numbers."""
    rows = rows_of(inputs)
    with undisturbed(module, inputs, SEED):
        plain = plain_losses(module, loss, inputs, views)
    copies = UnitCopies(parameters, module.buffers(), rows // views, rows)
    with FORCED_EAGER, undisturbed(module, inputs, SEED), torch.enable_grad(), copies:
        means = mean_losses(loss(module, *inputs), rows, views)
    if not agree(plain, means.detach()):
        raise NoRule(parameters, "used in a way that depends on the number of rows")


def _backward(
    means: Tensor, copies: UnitCopies, parameters: Mapping[str, nn.Parameter], found: Known
) -> list[Tensor | None]:
    """The per-unit gradients of the copies, in order; None where the loss does not need them."""
    leaves = copies.leaves
    if not (parameters and means.requires_grad):
        return [None] * len(leaves)
    verification = Verification(found, means, leaves, copies.uses)
    # Gradients are taken outside of autocast, as its documentation asks for.
    with torch.autocast(means.device.type, enabled=False):
        verification.first()
        gradients = autograd_grad(
            means.sum(),
            [*leaves, *parameters.values()],
            retain_graph=bool(verification.open()),
            allow_unused=True,
        )
        unseen = [
            name
            for name, gradient in zip(parameters, gradients[len(leaves) :], strict=True)
            if gradient is not None
        ]
        if unseen:
            raise NoRule(unseen, "used where it cannot be intercepted")
        verification.rest(gradients)
    return list(gradients[: len(leaves)])

"""Backward passes that are not to be differentiated once more."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch

from dpdm.privacy.gradients.refusal import NoRule


class _Unpacked:
    """A context whose saved tensors are at hand."""

    def __init__(self, context: Any) -> None:
        self._context = context
        self.saved_tensors = context.saved_tensors

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)


def first_order(backward: Callable[..., Any]) -> Callable[..., Any]:
    """A rule's backward, which raises NoRule where a graph of it is asked for.

    A loss that takes gradients with ``create_graph=True`` needs second derivatives that rules do
    not have. (torch's ``once_differentiable`` lets a gradient pass that depends on the weight
    alone, without the dependence.)

    Saved tensors are unpacked while functions are intercepted, as checkpointed parts are computed
    again there; the arithmetic that follows is not, which takes a tenth off small networks' passes.
    """

    @wraps(backward)
    def checked(ctx: Any, *gradients: Any) -> Any:
        if torch.is_grad_enabled():
            raise NoRule((), "a loss that differentiates gradients (create_graph=True)")
        unpacked = _Unpacked(ctx)
        with torch._C.DisableTorchFunction():
            return backward(unpacked, *gradients)

    return checked

"""Backward passes that are not to be differentiated once more."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch

from dpdm.privacy.gradients.refusal import NoRule


def first_order(backward: Callable[..., Any]) -> Callable[..., Any]:
    """A rule's backward, which raises NoRule where a graph of it is asked for.

    A loss that takes gradients with ``create_graph=True`` needs second derivatives that rules do
    not have. (torch's ``once_differentiable`` lets a gradient pass that depends on the weight
    alone, without the dependence.)
    """

    @wraps(backward)
    def checked(ctx: Any, *gradients: Any) -> Any:
        if torch.is_grad_enabled():
            raise NoRule((), "a loss that differentiates gradients (create_graph=True)")
        return backward(ctx, *gradients)

    return checked

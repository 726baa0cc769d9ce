"""Which function has which per-unit rule.

A rule takes the active UnitCopies and the function's own arguments, and returns the function's
result, attached to the copies of the parameters, or NotImplemented for a call that it does not
cover. A function without a rule goes through ``any_function``: torch.func.vmap over the units, for
that call alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dpdm.privacy.gradients import (
    rules_attention,
    rules_convolution,
    rules_general,
    rules_linear,
    rules_normalisation,
)

Rule = Callable[..., Any]

RULES: dict[Any, Rule] = {
    **rules_convolution.RULES,
    **rules_linear.RULES,
    **rules_normalisation.RULES,
    **rules_attention.RULES,
    **rules_general.RULES,
}

EXPANSIONS: dict[Any, Rule] = rules_general.EXPANSIONS
"""Functions that may turn a parameter into rows, one for each view."""

any_function = rules_general.any_function
refuse_batch_statistics = rules_normalisation.refuse_batch_statistics

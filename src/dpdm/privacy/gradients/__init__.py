"""Per-unit gradients of any PyTorch module: computed, checked, clipped.

Useful on its own: nothing else of dpdm is needed but its errors.
"""

from dpdm.privacy.gradients.clipping import (
    ClippedSum,
    Elsewhere,
    clip_and_sum,
    clip_factors,
    clip_rows,
    per_unit_norms,
)
from dpdm.privacy.gradients.engine import per_unit_gradients, settled
from dpdm.privacy.gradients.packing import OuterProducts, PerUnit
from dpdm.privacy.gradients.refusal import UnsupportedModuleError
from dpdm.privacy.gradients.validate import validate

__all__ = [
    "ClippedSum",
    "Elsewhere",
    "OuterProducts",
    "PerUnit",
    "UnsupportedModuleError",
    "clip_and_sum",
    "clip_factors",
    "clip_rows",
    "per_unit_gradients",
    "per_unit_norms",
    "settled",
    "validate",
]

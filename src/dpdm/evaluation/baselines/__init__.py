"""What synthetic images are to be beaten by: classifiers trained with DP-SGD on the real ones."""

from dpdm.evaluation.baselines.measure import (
    Baseline,
    baseline_note,
    check_baseline,
    measure_baseline,
)
from dpdm.evaluation.baselines.recipe import DpRecipe, dp_recipe

__all__ = [
    "Baseline",
    "DpRecipe",
    "baseline_note",
    "check_baseline",
    "dp_recipe",
    "measure_baseline",
]

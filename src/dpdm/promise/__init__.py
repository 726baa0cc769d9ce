"""The promise: what a budget allows, solved; what was spent, stated and explained.

``privacy/`` computes epsilon; nothing here can change it.
"""

from dpdm.promise.alternatives import plan
from dpdm.promise.planning import (
    check_delta,
    gaussian,
    gaussian_noise_multiplier_for,
    noise_multiplier_for,
    poisson_sampled_gaussian,
    sample_rate_within,
    steps_within,
)
from dpdm.promise.statement import build_statement
from dpdm.promise.wording import render_markdown, render_text

__all__ = [
    "build_statement",
    "check_delta",
    "gaussian",
    "gaussian_noise_multiplier_for",
    "noise_multiplier_for",
    "plan",
    "poisson_sampled_gaussian",
    "render_markdown",
    "render_text",
    "sample_rate_within",
    "steps_within",
]

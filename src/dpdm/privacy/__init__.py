"""The privacy room: everything an auditor has to read.

Mechanisms (sensitivity, noise and event together), accounting, ledger, noise, statement, and the
per-unit gradients that DP-SGD clips. Nothing here knows of diffusion or networks.
"""

from dpdm.privacy.accounting import (
    Event,
    check_delta,
    epsilon,
    event_from_json,
    gaussian,
    gaussian_noise_multiplier_for,
    noise_multiplier_for,
    plan,
    poisson_sampled_gaussian,
    steps_within,
)
from dpdm.privacy.gradients import (
    UnsupportedModuleError,
    clip_and_sum,
    per_unit_gradients,
    validate,
)
from dpdm.privacy.ledger import Ledger, read_ledger
from dpdm.privacy.mechanisms import (
    DpSgdStep,
    Gradients,
    NoisedScatter,
    NoisedSum,
    PrivateStepStatistics,
    Session,
    clip_rows,
)
from dpdm.privacy.noise import NoiseSource, SeededNoise, SystemNoise
from dpdm.privacy.statement import build_statement, render_markdown, render_text

__all__ = [
    "DpSgdStep",
    "Event",
    "Gradients",
    "Ledger",
    "NoiseSource",
    "NoisedScatter",
    "NoisedSum",
    "PrivateStepStatistics",
    "SeededNoise",
    "Session",
    "SystemNoise",
    "UnsupportedModuleError",
    "build_statement",
    "check_delta",
    "clip_and_sum",
    "clip_rows",
    "epsilon",
    "event_from_json",
    "gaussian",
    "gaussian_noise_multiplier_for",
    "noise_multiplier_for",
    "per_unit_gradients",
    "plan",
    "poisson_sampled_gaussian",
    "read_ledger",
    "render_markdown",
    "render_text",
    "steps_within",
    "validate",
]

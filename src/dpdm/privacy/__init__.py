"""The privacy room: what the claim rests on, and all that an auditor has to read.

docs/privacy.md walks through it. Nothing here knows of diffusion, networks or statements.
"""

from dpdm.privacy.accounting import Event, epsilon, event_from_json
from dpdm.privacy.gradients import (
    ClippedSum,
    Elsewhere,
    OuterProducts,
    UnsupportedModuleError,
    clip_and_sum,
    clip_rows,
    per_unit_gradients,
    validate,
)
from dpdm.privacy.ledger import Ledger, read_ledger
from dpdm.privacy.mechanisms import DpSgdStep, NoisedScatter, NoisedSum, Session
from dpdm.privacy.noise import NoiseSource, SystemNoise
from dpdm.privacy.units import Gradients, PrivateUnits, SealedError

__all__ = [
    "ClippedSum",
    "DpSgdStep",
    "Elsewhere",
    "Event",
    "Gradients",
    "Ledger",
    "NoiseSource",
    "NoisedScatter",
    "NoisedSum",
    "OuterProducts",
    "PrivateUnits",
    "SealedError",
    "Session",
    "SystemNoise",
    "UnsupportedModuleError",
    "clip_and_sum",
    "clip_rows",
    "epsilon",
    "event_from_json",
    "per_unit_gradients",
    "read_ledger",
    "validate",
]

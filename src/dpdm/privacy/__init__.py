"""The privacy room: what the claim rests on, and all that an auditor has to read.

docs/privacy.md walks through it. Nothing here knows of diffusion, networks or statements. Whoever
only accounts does not wait for torch: what needs it is imported when it is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dpdm.later import later
from dpdm.privacy.accounting import Event, epsilon, event_from_json
from dpdm.privacy.ledger import Ledger, read_ledger
from dpdm.privacy.noise import NoiseSource, SystemNoise

if TYPE_CHECKING:
    from dpdm.privacy.gradients import ClippedSum as ClippedSum
    from dpdm.privacy.gradients import Elsewhere as Elsewhere
    from dpdm.privacy.gradients import OuterProducts as OuterProducts
    from dpdm.privacy.gradients import UnsupportedModuleError as UnsupportedModuleError
    from dpdm.privacy.gradients import clip_and_sum as clip_and_sum
    from dpdm.privacy.gradients import clip_rows as clip_rows
    from dpdm.privacy.gradients import per_unit_gradients as per_unit_gradients
    from dpdm.privacy.gradients import validate as validate
    from dpdm.privacy.mechanisms import DpSgdStep as DpSgdStep
    from dpdm.privacy.mechanisms import NoisedScatter as NoisedScatter
    from dpdm.privacy.mechanisms import NoisedSum as NoisedSum
    from dpdm.privacy.mechanisms import Session as Session
    from dpdm.privacy.units import Gradients as Gradients
    from dpdm.privacy.units import PrivateUnits as PrivateUnits
    from dpdm.privacy.units import SealedError as SealedError

_WITH_TORCH = {
    "ClippedSum": "dpdm.privacy.gradients",
    "Elsewhere": "dpdm.privacy.gradients",
    "OuterProducts": "dpdm.privacy.gradients",
    "UnsupportedModuleError": "dpdm.privacy.gradients",
    "clip_and_sum": "dpdm.privacy.gradients",
    "clip_rows": "dpdm.privacy.gradients",
    "per_unit_gradients": "dpdm.privacy.gradients",
    "validate": "dpdm.privacy.gradients",
    "DpSgdStep": "dpdm.privacy.mechanisms",
    "NoisedScatter": "dpdm.privacy.mechanisms",
    "NoisedSum": "dpdm.privacy.mechanisms",
    "Session": "dpdm.privacy.mechanisms",
    "Gradients": "dpdm.privacy.units",
    "PrivateUnits": "dpdm.privacy.units",
    "SealedError": "dpdm.privacy.units",
}

__all__ = [
    "Event",
    "Ledger",
    "NoiseSource",
    "SystemNoise",
    "epsilon",
    "event_from_json",
    "read_ledger",
    *_WITH_TORCH,
]


__getattr__ = later(__name__, _WITH_TORCH)


def __dir__() -> list[str]:
    return __all__

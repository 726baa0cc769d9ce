"""What a training tells whoever shows its progress."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from dpdm.training.loop import StepRecord


@dataclass(frozen=True)
class TrainingEvent:
    """What a progress display is told; losses in it are private.

    Attributes:
        kind: ``plan``, ``prior``, ``step``, ``stopped`` or ``released``.
        message: one line for people, may be empty.
        record: the step, for ``step``.
        steps: steps of the phase in all, for ``step``.
        epsilon: spent so far, where it was just computed.
    """

    kind: str
    message: str = ""
    record: StepRecord | None = None
    steps: int = 0
    epsilon: float | None = None


Callback = Callable[[TrainingEvent], None]

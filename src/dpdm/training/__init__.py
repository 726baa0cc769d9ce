"""Training: wires private data to mechanisms and mechanisms to the optimiser."""

from dpdm.training.events import TrainingEvent
from dpdm.training.folder import RunFolder
from dpdm.training.interrupt import Interrupted
from dpdm.training.plan import Plan, make_plan
from dpdm.training.run import Run, open_run, train
from dpdm.training.view_gradients import images_per_unit

__all__ = [
    "Interrupted",
    "Plan",
    "Run",
    "RunFolder",
    "TrainingEvent",
    "images_per_unit",
    "make_plan",
    "open_run",
    "train",
]

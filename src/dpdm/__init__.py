"""dpdm: synthetic images from a private collection, by diffusion models under differential privacy.

The whole public API is here; everything is imported when it is first used, so that ``import
dpdm`` is quick.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from dpdm.later import later

__version__ = "0.1.0"

if TYPE_CHECKING:
    from dpdm.config import Config as Config
    from dpdm.config import load_config as load_config
    from dpdm.config import preset as preset
    from dpdm.data import Dataset as Dataset
    from dpdm.data import open_dataset as open_dataset
    from dpdm.errors import DpdmError as DpdmError
    from dpdm.errors import RequestError as RequestError
    from dpdm.evaluation.evaluate import evaluate as evaluate
    from dpdm.release.model import Model as Model
    from dpdm.release.model import load as load
    from dpdm.training.run import Run as Run
    from dpdm.training.run import train as train

_EXPORTS = {
    "Config": "dpdm.config",
    "load_config": "dpdm.config",
    "preset": "dpdm.config",
    "Dataset": "dpdm.data",
    "open_dataset": "dpdm.data",
    "DpdmError": "dpdm.errors",
    "RequestError": "dpdm.errors",
    "evaluate": "dpdm.evaluation",
    "Model": "dpdm.release.model",
    "load": "dpdm.release.model",
    "Run": "dpdm.training.run",
    "train": "dpdm.training.run",
}

__all__ = ["__version__", *sorted(_EXPORTS)]


__getattr__ = later(__name__, _EXPORTS)


def __dir__() -> list[str]:
    return __all__

"""Results of long work kept on disk by the content they came from, so that it resumes.

Features and distances of real images are private: a store belongs on a run's private side.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpdm.errors import DpdmError
from dpdm.replacing import replacing

Array = NDArray[Any]


class Store:
    """Arrays by key in a folder; without a folder nothing is kept."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder

    def array(self, key: str, compute: Callable[[], Array]) -> Array:
        """The array kept under a key (hexadecimal), or else computed, and then kept.

        A file appears under its name only once it is whole; a damaged one is computed again.
        Raises DpdmError where the folder cannot be written.
        """
        if self.folder is None:
            return compute()
        path = self.folder / f"{key}.npy"
        try:
            kept: Array = np.load(path, allow_pickle=False)
            return kept
        except (OSError, ValueError, EOFError):
            pass  # not there, or damaged: the new file takes its place
        value = compute()
        self._write(path, value)
        return value

    def _write(self, path: Path, value: Array) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as file:
                np.save(file, value, allow_pickle=False)
        except OSError as error:
            raise DpdmError(
                f"{path}: cannot be written ({error.strerror}); give --cache a folder with room"
            ) from None

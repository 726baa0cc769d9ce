"""An extractor turns images into features; its name goes into the name of what is made of them.

Features are computed in chunks that a ``Store`` keeps by content: long work resumes where it was.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpdm.errors import DpdmError
from dpdm.evaluation.progress import ProgressCallback
from dpdm.evaluation.store import Store
from dpdm.hashing import content_hash

Images = NDArray[np.uint8]
Features = NDArray[np.float32]
Compute = Callable[[Images], Features]
INCEPTION = "inception"
_CHUNK = 1000


@dataclass(frozen=True)
class Extractor:
    """How images become features. ``compute`` maps uint8 (n, H, W, C) to float32 (n, d)."""

    name: str
    """``inception`` for the network of FID and for nothing else."""
    fingerprint: str
    """A hash of everything that the features depend on besides the images."""
    description: str
    """One sentence: which network this is, and what it was trained on."""
    compute: Compute
    probabilities: Compute | None = None
    """Class probabilities (n, classes), where the network has them; for the Inception score."""

    @property
    def frechet(self) -> str:
        """What the Frechet distance of these features is called: ``fid`` or ``fd-NAME``."""
        return "fid" if self.name == INCEPTION else f"fd-{self.name}"

    @property
    def kernel(self) -> str:
        """What the kernel distance of these features is called: ``kid`` or ``kd-NAME``."""
        return "kid" if self.name == INCEPTION else f"kd-{self.name}"


@dataclass(frozen=True, eq=False)
class FeatureSet:
    """Features (N, d) of one set of images, and the hash that names them in a store."""

    values: NDArray[Any]
    """float32 (N, d); bytes where the features are the pixels as they are."""
    key: str

    def part(self, members: NDArray[np.intp]) -> FeatureSet:
        """The features of some of the images."""
        return FeatureSet(self.values[members], content_hash(self.key, members))


def extract(
    extractor: Extractor,
    images: Images,
    what: str,
    *,
    store: Store,
    progress: ProgressCallback | None = None,
) -> FeatureSet:
    """Features of uint8 (N, H, W, C), N >= 1, in chunks of 1,000; ``what`` names the set.

    Raises:
        DpdmError: a feature is not finite, or the network returns another number of rows.
    """
    title = f"{extractor.name} features, {what}"
    return _in_chunks(extractor, "features", extractor.compute, images, title, store, progress)


def probabilities(
    extractor: Extractor,
    images: Images,
    *,
    store: Store,
    progress: ProgressCallback | None = None,
) -> Features:
    """Class probabilities (N, classes) of an extractor that has them; otherwise as ``extract``."""
    assert extractor.probabilities is not None
    title = f"{extractor.name} class probabilities"
    compute = extractor.probabilities
    return _in_chunks(extractor, "classes", compute, images, title, store, progress).values


def _in_chunks(
    extractor: Extractor,
    kind: str,
    compute: Compute,
    images: Images,
    title: str,
    store: Store,
    progress: ProgressCallback | None,
) -> FeatureSet:
    keys = []
    values: Features | None = None
    for start in range(0, len(images), _CHUNK):
        chunk = images[start : start + _CHUNK]
        key = content_hash(extractor.fingerprint, kind, chunk)
        rows = store.array(key, lambda chunk=chunk: _checked(extractor, compute, chunk))  # type: ignore[misc]
        if values is None:
            values = np.empty((len(images), rows.shape[1]), np.float32)
        values[start : start + len(chunk)] = rows
        keys.append(key)
        if progress is not None:
            progress(title, start + len(chunk), len(images))
    assert values is not None, "a data set has at least one image"
    return FeatureSet(values, content_hash(*keys))


def _checked(extractor: Extractor, compute: Compute, images: Images) -> Features:
    rows = compute(images)
    if rows.ndim != 2 or len(rows) != len(images):
        raise DpdmError(
            f"feature network {extractor.name}: {len(images)} images gave an array {rows.shape}; "
            "it must give one row of features for each"
        )
    if not np.isfinite(rows).all():
        raise DpdmError(
            f"feature network {extractor.name}: gives features that are not finite; use another"
        )
    return rows.astype(np.float32, copy=False)

"""Images on their way from noise, as people look at them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Images as the steps of a sampler leave them, from noise to the end.

    Attributes:
        frames: uint8 (F, N, H, W, C); frame f shows x / sqrt(1 + sigma_f^2), whose range is that of
            an image at any noise.
        sigmas: (F,) noise levels, falling; the last is 0.
        labels: (N,), -1 where unlabelled.
        sampler: name of the sampler.
        steps: of the sampler, of which the frames are a few.
        shortcut: whether the release's own samples are drawn without these steps: a prior alone is.
        from_prior: whether the first frame is a sample of the prior with noise on it, not noise.
    """

    frames: NDArray[np.uint8]
    sigmas: tuple[float, ...]
    labels: NDArray[np.int64]
    sampler: str
    steps: int
    shortcut: bool
    from_prior: bool = False

"""The pixels themselves as features: always there, and what a copy is compared by."""

import numpy as np
from numpy.typing import NDArray

from dpdm.evaluation.features.extractor import Extractor


def _pixels(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """uint8 (N, H, W, C) as float32 (N, H*W*C) in [0, 1]."""
    return images.reshape(len(images), -1).astype(np.float32) / np.float32(255)


PIXELS = Extractor(
    name="pixels",
    fingerprint="pixels in [0, 1]",
    description="the pixels themselves, from 0 to 1",
    compute=_pixels,
)

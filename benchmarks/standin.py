"""Random images in the shape and number of a problem's data: public, and as costly to train on."""

from __future__ import annotations

import numpy as np
from common import Problem

from dpdm.data import Dataset


def standin(problem: Problem) -> Dataset:
    """Images uint8 (N, H, W, C) and labels, both uniform; the same at every call."""
    random = np.random.default_rng(0)
    return Dataset(
        name="random images",
        shape=problem.shape,
        classes=tuple(str(label) for label in range(problem.classes)),
        public_size=problem.size,
        public_size_declared=True,
        private_images=random.integers(256, size=(problem.size, *problem.shape), dtype=np.uint8),
        private_labels=random.integers(problem.classes, size=problem.size),
    )

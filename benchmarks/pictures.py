"""What the pictures of several benchmarks share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from dpdm.evaluation import png_bytes


def side_by_side(grids: Sequence[npt.NDArray[np.uint8]], gap: int = 16) -> bytes:
    """Grids of one height, (H, W, C) each, from left to right with white between, as a PNG."""
    white = np.full((grids[0].shape[0], gap, *grids[0].shape[2:]), 255, np.uint8)
    parts = [part for grid in grids for part in (grid, white)][:-1]
    return png_bytes(np.concatenate(parts, axis=1))

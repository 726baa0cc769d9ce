"""Inception Score (arXiv 1606.03498): exp of the mean divergence of p(y|x) from p(y)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import xlogy

from dpdm.errors import RequestError

SPLITS = 10


class InceptionScore(NamedTuple):
    """Mean over the splits, and their standard deviation, as the paper reports it."""

    value: float
    spread: float


def inception_score(probabilities: NDArray[np.floating], splits: int = SPLITS) -> InceptionScore:
    """The score of class probabilities (N, classes), N >= splits, cut into ``splits`` in order.

    Raises:
        RequestError: fewer images than splits.
    """
    if len(probabilities) < splits:
        raise RequestError(
            f"the Inception score of {len(probabilities)} images in {splits} splits; give more"
        )
    values = []
    for part in np.array_split(np.asarray(probabilities, np.float64), splits):
        marginal = part.mean(0)
        divergence = (xlogy(part, part) - xlogy(part, marginal)).sum(1)
        values.append(np.exp(divergence.mean()))
    return InceptionScore(float(np.mean(values)), float(np.std(values)))

"""Figures that others published, to stand beside our own: copied, not measured here.

Source: Dockhorn, Cao, Vahdat, Kreis, "Differentially Private Diffusion Models", TMLR 2023 (arXiv
2210.09929), Table 1 (synthesis) and Table 2 (classifiers trained with DP-SGD on the real images);
delta 1e-5 throughout.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

SOURCE = "Dockhorn et al., “Differentially Private Diffusion Models”, TMLR 2023, arXiv 2210.09929"


@dataclass(frozen=True)
class Published:
    """One row of a published table; accuracy is a fraction of 1 by classifier."""

    method: str
    table: str
    epsilon: float
    accuracy: Mapping[str, float]
    fid: float | None = None


def _synthesis(
    sampler: str, epsilon: float, fid: float, lr: float, mlp: float, cnn: float
) -> Published:
    method = f"DPDM, sampler for {sampler}"
    return Published(method, "Table 1", epsilon, _fractions(lr, mlp, cnn), fid)


def _dp_sgd(epsilon: float, lr: float, mlp: float, cnn: float) -> Published:
    return Published("DP-SGD on real images", "Table 2", epsilon, _fractions(lr, mlp, cnn))


def _fractions(lr: float, mlp: float, cnn: float) -> dict[str, float]:
    return {"lr": lr / 100, "mlp": mlp / 100, "cnn": cnn / 100}


_FIGURES = {
    "MNIST": (
        _synthesis("FID", 0.2, 61.9, 65.3, 65.8, 71.9),
        _synthesis("accuracy", 0.2, 104, 81.0, 81.7, 86.3),
        _dp_sgd(0.2, 83.8, 82.0, 69.9),
        _synthesis("FID", 1, 23.4, 83.8, 87.0, 93.4),
        _synthesis("accuracy", 1, 35.5, 86.7, 91.6, 95.3),
        _dp_sgd(1, 89.1, 89.6, 88.2),
        _synthesis("FID", 10, 5.01, 90.5, 94.6, 97.3),
        _synthesis("accuracy", 10, 6.65, 90.8, 94.8, 98.1),
        _dp_sgd(10, 91.6, 92.9, 96.4),
    ),
    "Fashion-MNIST": (
        _synthesis("FID", 0.2, 78.4, 53.6, 55.3, 57.0),
        _synthesis("accuracy", 0.2, 128, 70.4, 71.3, 72.3),
        _dp_sgd(0.2, 74.8, 73.9, 59.5),
        _synthesis("FID", 1, 37.8, 71.5, 71.7, 73.6),
        _synthesis("accuracy", 1, 51.4, 76.3, 76.9, 79.4),
        _dp_sgd(1, 79.6, 79.6, 70.5),
        _synthesis("FID", 10, 18.6, 80.4, 81.1, 84.9),
        _synthesis("accuracy", 10, 19.1, 81.1, 83.0, 86.2),
        _dp_sgd(10, 83.3, 83.9, 77.1),
    ),
}


def published_figures(data: str, epsilon: float) -> tuple[Published, ...]:
    """The rows for a data set by its title, at the published epsilon nearest in ratio.

    "Fashion-MNIST (repackaged split)" gets those of Fashion-MNIST. Empty for data without any, and
    for an epsilon that is not a positive number.
    """
    rows = _FIGURES.get(data.partition(" (")[0], ())
    if not rows or not 0 < epsilon < math.inf:
        return ()
    nearest = min({row.epsilon for row in rows}, key=lambda other: abs(math.log(other / epsilon)))
    return tuple(row for row in rows if row.epsilon == nearest)

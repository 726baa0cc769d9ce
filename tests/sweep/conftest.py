"""Result lines as cells write them, with known figures."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

Lines = list[dict[str, Any]]


@pytest.fixture
def line() -> Callable[..., dict[str, Any]]:
    """``line({"views.count": 1}, seed, lr, frechet)``: MLP and CNN are 1 and 2 points above LR."""

    def make(values: dict[str, Any], seed: int, lr: float, frechet: float) -> dict[str, Any]:
        return {
            "cell": "cell",
            "values": values,
            "seed": seed,
            "private": True,
            "epsilon": 9.9 + 0.01 * seed,
            "delta": 1e-4,
            "accuracy": {"lr": lr, "mlp": lr + 0.01, "cnn": lr + 0.02},
            "frechet": frechet,
            "frechet_measure": "fd-pixels",
            "training_seconds": 10.0 + seed,
            "image_passes": 100,
            "steps": 3,
            "synthetic_images": 30,
            "device": "cpu",
            "threads": 1,
            "data": "digits",
            "version": "0.1.0",
            "commit": "abcdef1",
        }

    return make

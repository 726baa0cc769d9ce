"""A prior of any shape with random fields, for the tests of this room."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from dpdm.diffusion.mixture import Mixture


@pytest.fixture
def make_mixture() -> Callable[..., Mixture]:
    def make(
        image_shape: tuple[int, int, int] = (1, 3, 4),
        dimension: int = 7,
        rank: int = 3,
        classes: int = 3,
        components: int = 4,
        dtype: torch.dtype = torch.float64,
        seed: int = 0,
        **fields: torch.Tensor,
    ) -> Mixture:
        g = torch.Generator().manual_seed(seed)

        def rand(*shape: int) -> torch.Tensor:
            return torch.rand(*shape, generator=g, dtype=torch.float64)

        size = image_shape[0] * image_shape[1] * image_shape[2]
        full = rand(classes, dimension, dimension) - 0.5
        random = {
            "class_weights": rand(classes) + 0.2,
            "weights": rand(classes, components) + 0.1,
            "means": 3.0 * (rand(classes, components, dimension) - 0.5),
            "basis": torch.linalg.qr(full)[0][:, :, :rank],
            "variances": 0.5 * rand(classes, rank) + 0.1,
            "floor": 0.1 * rand(classes) + 0.02,
            "rest": 0.1 * rand(size - dimension) + 0.01,
        }
        return Mixture.build(image_shape, **{**random, **fields}, dtype=dtype)

    return make

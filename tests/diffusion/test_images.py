"""Between uint8 images and model space."""

from __future__ import annotations

import numpy as np
import torch

from dpdm.diffusion.images import to_model_space, to_uint8


def test_every_grey_level_comes_back() -> None:
    images = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    assert (to_uint8(to_model_space(images)) == images).all()


def test_the_scale_is_minus_one_to_one_with_channels_first() -> None:
    images = np.zeros((2, 3, 4, 3), dtype=np.uint8)
    images[1, 2, 3, 1] = 255
    x = to_model_space(images)
    assert x.shape == (2, 3, 3, 4)
    assert x.dtype == torch.float32
    assert (x.min(), x.max()) == (-1.0, 1.0)
    assert x[1, 1, 2, 3] == 1.0


def test_values_outside_the_range_are_clamped_and_others_rounded() -> None:
    x = torch.tensor([-3.0, -1.0, 0.0, 0.999, 1.2]).reshape(1, 1, 1, 5)
    assert to_uint8(x).ravel().tolist() == [0, 0, 128, 255, 255]

"""The stand-in for a person's colour folder: each class in its colour, on a real photograph."""

from __future__ import annotations

import colour
import numpy as np


def test_an_item_covers_its_photograph_in_its_classes_colour():
    items = np.zeros((4, 28, 28, 1), np.uint8)
    items[:, 10:18, 10:18] = 255
    for label in (0, 1):
        images = colour.coloured(items, label, np.random.default_rng(0))
        assert images.shape == (4, 32, 32, 3)
        inside, outside = images[:, 13:19, 13:19], images[:, :10]
        assert np.abs(inside.mean((0, 1, 2)) - np.array(colour._COLOURS[label])).max() < 40
        assert inside.std(axis=(1, 2)).max() == 0
        assert outside.std() > 10


def test_the_same_seed_makes_the_same_images():
    items = np.full((3, 28, 28, 1), 90, np.uint8)
    first, second = (colour.coloured(items, 3, np.random.default_rng(5)) for _ in range(2))
    assert np.array_equal(first, second)

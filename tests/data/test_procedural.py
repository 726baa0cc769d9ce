"""Images made by code: what they are fixed by, and that they are what their description says."""

from __future__ import annotations

import numpy as np
import pytest

from dpdm.data.procedural import procedural_images
from dpdm.errors import RequestError


def test_images_are_fixed_by_their_seed_and_differ_from_those_of_another():
    first, again, other = (procedural_images(40, 28, 28, 1, seed) for seed in (3, 3, 4))
    assert first.shape == (40, 28, 28, 1)
    assert first.dtype == np.uint8
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_no_image_is_like_another_across_batches():
    images = procedural_images(300, 16, 20, 1, 0).reshape(300, -1).astype(float)
    distances = ((images[:, None] - images[None]) ** 2).mean(2) + 1e9 * np.eye(300)
    assert (distances.min(1) > 0).mean() > 0.98


def test_grey_images_mostly_have_a_dark_ground():
    corners = procedural_images(400, 28, 28, 1, 1)[:, 0, 0, 0]
    assert 0.4 < (corners < 30).mean() < 0.95


def test_colour_images_have_colours():
    images = procedural_images(100, 32, 32, 3, 2).astype(float)
    assert images.shape == (100, 32, 32, 3)
    assert (np.ptp(images.reshape(100, -1, 3), axis=2).mean(1) > 20).mean() > 0.6


def test_other_channels_are_refused():
    with pytest.raises(RequestError, match="1 or 3 channels"):
        procedural_images(1, 8, 8, 2, 0)

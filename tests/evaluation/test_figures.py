"""Sample grids and PNG bytes."""

import io

import numpy as np
import pytest
from PIL import Image

from dpdm.errors import RequestError
from dpdm.evaluation import png_bytes, sample_grid
from dpdm.evaluation.figures import as_rgb, crisp_scale


def flat(values, size=2, channels=1):
    """One image of a single grey value for each value."""
    return np.array(values, np.uint8)[:, None, None, None] * np.ones(
        (size, size, channels), np.uint8
    )


def test_each_class_has_a_row_of_its_first_images():
    images = flat([10, 20, 11, 21, 12])
    labels = np.array([0, 1, 0, 1, 0])
    grid = sample_grid(images, labels, ("a", "b"), 2, scale=1, gap=0)
    assert grid[::2, ::2, 0].tolist() == [[10, 11], [20, 21]]


def test_a_class_with_too_few_images_leaves_background():
    grid = sample_grid(flat([10]), np.array([1]), ("a", "b"), 2, scale=1, gap=0, background=200)
    assert grid[::2, ::2, 0].tolist() == [[200, 200], [10, 200]]


def test_without_labels_images_fill_the_rows_in_order():
    grid = sample_grid(flat([1, 2, 3]), columns=2, scale=1, gap=0, background=0)
    assert grid[::2, ::2, 0].tolist() == [[1, 2], [3, 0]]


def test_pixels_are_repeated_and_gaps_lie_between_images_only():
    images = np.array([[[0], [255]]], np.uint8).reshape(1, 1, 2, 1).repeat(2, axis=0)
    grid = sample_grid(images, columns=2, scale=3, gap=1, background=128)
    assert grid.shape == (3, 13, 3)
    assert grid[0, :, 0].tolist() == [0, 0, 0, 255, 255, 255, 128, 0, 0, 0, 255, 255, 255]


def test_gaps_can_be_transparent():
    grid = sample_grid(flat([7, 7]), columns=2, scale=1, gap=1, background=None)
    assert grid[0, :, 3].tolist() == [255, 255, 0, 255, 255]


def test_tiny_images_are_enlarged_and_larger_ones_are_not():
    assert crisp_scale(8, 8) * 8 >= 160
    assert crisp_scale(28, 28) * 28 >= 160
    assert crisp_scale(64, 64) == 1


@pytest.mark.parametrize(
    ("channels", "shown"), [(1, [0, 0, 0]), (2, [0, 0, 0]), (3, [0, 1, 2]), (4, [0, 1, 2])]
)
def test_any_number_of_channels_can_be_shown(channels, shown):
    image = np.arange(channels, dtype=np.uint8).reshape(1, 1, 1, channels)
    assert as_rgb(image)[0, 0, 0].tolist() == shown


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1), (5, 7, 3), (5, 7, 4)])
def test_a_png_holds_the_pixels_unchanged(shape):
    array = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    with Image.open(io.BytesIO(png_bytes(array))) as opened:
        assert opened.format == "PNG"
        np.testing.assert_array_equal(np.asarray(opened).reshape(shape), array)


def test_a_grey_picture_in_three_channels_is_stored_as_grey():
    array = np.random.default_rng(0).integers(0, 256, (5, 7, 1), dtype=np.uint8).repeat(3, axis=2)
    with Image.open(io.BytesIO(png_bytes(array))) as opened:
        assert opened.mode == "L"
        np.testing.assert_array_equal(np.asarray(opened.convert("RGB")), array)


def test_nothing_to_show_is_refused():
    with pytest.raises(RequestError, match="shows nothing"):
        sample_grid(flat([])[:0], columns=3)
    with pytest.raises(RequestError, match="shows nothing"):
        sample_grid(flat([1]), columns=0)

"""A Dataset refuses contradictions and cannot be changed."""

import dataclasses

import numpy as np
import pytest

from dpdm.data import Dataset
from dpdm.errors import RequestError

PARTS = {
    "name": "toy",
    "shape": (4, 5, 1),
    "classes": ("a", "b"),
    "public_size": 3,
    "public_size_declared": False,
    "private_images": np.zeros((3, 4, 5, 1), np.uint8),
    "private_labels": np.array([0, 1, 1]),
    "private_groups": np.array([1, 0, 1]),
}


def dataset(**changes):
    return Dataset(**{**PARTS, **changes})


def test_parts_that_agree_are_taken():
    data = dataset()
    assert data.private_count == 3
    assert data.private_class_counts == (1, 2)


def test_every_field_that_holds_data_is_called_private():
    holding = {f.name for f in dataclasses.fields(Dataset)} - {
        "name", "shape", "classes", "public_size", "public_size_declared",
    }  # fmt: skip
    assert all(name.startswith("private_") for name in holding)


def test_printing_a_data_set_shows_nothing_private():
    assert "private" not in repr(dataset())


@pytest.mark.parametrize("name", ["private_images", "private_labels", "private_groups"])
def test_arrays_are_read_only(name):
    array = getattr(dataset(), name)
    with pytest.raises(ValueError, match="read-only"):
        array[0] = 0


def test_the_array_of_the_caller_stays_writable():
    images = np.zeros((3, 4, 5, 1), np.uint8)
    dataset(private_images=images)
    images[0] = 1


def test_fields_cannot_be_set():
    with pytest.raises(dataclasses.FrozenInstanceError):
        dataset().public_size = 4


def test_an_empty_class_is_a_class():
    data = dataset(classes=("a", "b", "c"))
    assert data.private_class_counts == (1, 2, 0)


def test_unlabelled_images_have_no_classes():
    data = dataset(classes=(), private_labels=None, private_groups=None)
    assert data.private_class_counts == ()


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"private_images": np.zeros((0, 4, 5, 1), np.uint8)}, "no images"),
        ({"private_images": np.zeros((3, 4, 5, 1))}, "must be uint8"),
        ({"private_images": np.zeros((3, 4, 5), np.uint8)}, "must be uint8"),
        ({"shape": (5, 4, 1)}, "shape says"),
        (
            {"shape": (4, 5, 5), "private_images": np.zeros((3, 4, 5, 5), np.uint8)},
            "1 to 4 channels",
        ),
        ({"classes": ("a",)}, "label 1 has no class name"),
        ({"classes": ("a", " ")}, "class 1 has no name"),
        ({"classes": ("a", "a")}, "used twice"),
        ({"classes": ("a", "b\nc")}, "control characters"),
        ({"classes": ()}, "has no class name"),
        ({"private_labels": None}, "no labels"),
        ({"private_labels": np.array([0, 1, -1])}, "negative"),
        ({"private_labels": np.array([0, 1])}, "one for each image"),
        ({"private_labels": np.array([0, 1, 1], np.int32)}, "must be int64"),
        ({"private_groups": np.array([0, 1])}, "one for each image"),
        ({"private_groups": np.array([0, 2, 2])}, "0 to G-1"),
        ({"public_size": 0}, "data.public_size is 0"),
    ],
)
def test_contradictions_are_refused_in_one_line(changes, says):
    with pytest.raises(RequestError, match=says) as caught:
        dataset(**changes)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("toy: ")

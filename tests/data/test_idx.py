"""IDX files: the format of MNIST, gzip or plain, both splits."""

import gzip
import struct
import tracemalloc

import numpy as np
import pytest

from dpdm.data import open_dataset
from dpdm.errors import DpdmError, RequestError

IMAGES = np.random.default_rng(0).integers(0, 256, (3, 4, 5), np.uint8)
LABELS = np.array([2, 0, 1], np.uint8)


def idx(values):
    """The format as its author describes it (yann.lecun.com/exdb/mnist)."""
    return (
        struct.pack(">HBB", 0, 8, values.ndim)
        + b"".join(struct.pack(">I", n) for n in values.shape)
        + values.tobytes()
    )


def split(prefix, images=IMAGES, labels=LABELS, ending="-idx{}-ubyte"):
    return {
        f"{prefix}-images" + ending.format(images.ndim): idx(images),
        f"{prefix}-labels" + ending.format(1): idx(labels),
    }


def test_images_and_labels_are_read(make_files):
    data = open_dataset(make_files(split("train")))
    np.testing.assert_array_equal(data.private_images[..., 0], IMAGES)
    assert data.private_labels.tolist() == [2, 0, 1]
    assert data.classes == ("0", "1", "2")


def test_gzip_is_the_same(make_files):
    files = {f"{name}.gz": gzip.compress(data) for name, data in split("train").items()}
    data = open_dataset(make_files(files))
    np.testing.assert_array_equal(data.private_images[..., 0], IMAGES)


@pytest.mark.parametrize("prefix", ["t10k", "test"])
@pytest.mark.parametrize("ending", ["-idx{}-ubyte", ".idx{}-ubyte"])
def test_the_test_split_is_t10k(make_files, prefix, ending):
    files = split("train") | split(prefix, IMAGES[::-1], LABELS[::-1], ending)
    data = open_dataset(f"{make_files(files)}@test")
    np.testing.assert_array_equal(data.private_images[..., 0], IMAGES[::-1])
    assert data.name == "set, test"


def test_a_missing_split_says_which_is_there(make_files):
    folder = make_files(split("t10k"))
    with pytest.raises(RequestError, match=r"no train images, only test; write .*set@test"):
        open_dataset(folder)


def test_images_without_labels_are_unlabelled(make_files):
    data = open_dataset(make_files({"train-images-idx3-ubyte": idx(IMAGES)}))
    assert data.private_labels is None


def test_colour_images_have_a_fourth_dimension(make_files):
    data = open_dataset(make_files(split("train", np.zeros((3, 4, 5, 3), np.uint8))))
    assert data.shape == (4, 5, 3)


def test_classes_txt_names_the_classes(make_files):
    data = open_dataset(make_files(split("train") | {"classes.txt": "x\ny\nz\n"}))
    assert data.classes == ("x", "y", "z")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not an IDX file"),
        (b"<html>", "not an IDX file"),
        (b"\0\0\x0d\x03" + bytes(12), "not an IDX file of unsigned bytes"),
        (b"\0\0\x08\x03\0\0", "the header"),
        (idx(IMAGES)[:-1], "59 bytes of values where the header"),
        (idx(IMAGES) + b"\0", "more bytes of values where the header"),
    ],
)
def test_a_damaged_file_is_named(make_files, content, says):
    with pytest.raises(DpdmError, match=f"train-images-idx3-ubyte: .*{says}"):
        open_dataset(make_files({"train-images-idx3-ubyte": content}))


@pytest.mark.parametrize("damage", [slice(0, 30), slice(5, None)])
def test_a_damaged_gzip_file_is_named(make_files, damage):
    content = gzip.compress(idx(IMAGES))[damage]
    with pytest.raises(DpdmError, match=r"train-images-idx3-ubyte\.gz: damaged gzip"):
        open_dataset(make_files({"train-images-idx3-ubyte.gz": content}))


@pytest.mark.parametrize(("order", "shape"), [("<", (100, 28, 28)), (">", (2**22, 1024, 1024))])
def test_a_gzip_file_whose_header_says_more_than_memory_holds_is_named(make_files, order, shape):
    content = gzip.compress(b"\0\0\x08\x03" + struct.pack(f"{order}3I", *shape) + bytes(784))
    with pytest.raises(DpdmError, match=r"ubyte\.gz: 784 bytes of values where the header"):
        open_dataset(make_files({"train-images-idx3-ubyte.gz": content}))


def test_a_gzip_file_is_not_unpacked_beyond_what_its_header_says(make_files):
    bomb = gzip.compress(idx(IMAGES) + bytes(300 * 2**20))
    folder = make_files({"train-images-idx3-ubyte.gz": bomb})
    tracemalloc.start()
    try:
        with pytest.raises(DpdmError, match=r"ubyte\.gz: more bytes of values where the header"):
            open_dataset(folder)
        assert tracemalloc.get_traced_memory()[1] < 50 * 2**20
    finally:
        tracemalloc.stop()


def test_labels_for_other_images_are_refused(make_files):
    with pytest.raises(RequestError, match=r"labels have shape \(2,\) for 3 images"):
        open_dataset(make_files(split("train", labels=LABELS[:2])))

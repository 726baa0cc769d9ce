"""``.npz`` files: uint8 images, optional labels, class names and groups; the rest is refused."""

import io
import zipfile

import numpy as np
import pytest

from dpdm.data import open_dataset
from dpdm.errors import DpdmError, RequestError

IMAGES = np.random.default_rng(0).integers(0, 256, (4, 5, 6, 3), np.uint8)


@pytest.fixture
def save(tmp_path):
    def save(**arrays):
        path = tmp_path / "toy.npz"
        np.savez(path, **arrays)
        return path

    return save


def test_colour_images_are_taken_as_they_are(save):
    data = open_dataset(save(images=IMAGES))
    np.testing.assert_array_equal(data.private_images, IMAGES)
    assert data.shape == (5, 6, 3)
    assert data.name == "toy"
    assert data.private_sizes_seen == {(5, 6): 4}


def test_three_dimensions_are_grey(save):
    assert open_dataset(save(images=IMAGES[..., 0])).shape == (5, 6, 1)


def test_whole_number_labels_name_their_classes(save):
    data = open_dataset(save(images=IMAGES, labels=np.array([2, 0, 1, 2], np.uint8)))
    assert data.classes == ("0", "1", "2")
    assert data.private_labels.dtype == np.int64
    assert data.private_labels.tolist() == [2, 0, 1, 2]


def test_class_names_may_be_given(save):
    data = open_dataset(save(images=IMAGES, labels=[1, 0, 1, 0], classes=["dog", "cat", "owl"]))
    assert data.classes == ("dog", "cat", "owl")


def test_text_labels_are_in_natural_order(save):
    data = open_dataset(save(images=IMAGES, labels=["c10", "c9", "c10", "c1"]))
    assert data.classes == ("c1", "c9", "c10")
    assert data.private_labels.tolist() == [2, 1, 2, 0]


@pytest.mark.parametrize("groups", [[7, 7, -3, 90], ["x", "x", "a", "y"]])
def test_groups_become_0_to_g_minus_1(save, groups):
    assert open_dataset(save(images=IMAGES, groups=groups)).private_groups.tolist() == [1, 1, 0, 2]


def test_image_size_and_channels_apply(save):
    assert open_dataset(save(images=IMAGES), image_size=4, channels=1).shape == (4, 4, 1)


def test_a_declared_size_is_told_from_a_counted_one(save):
    counted, declared = (open_dataset(save(images=IMAGES), public_size=n) for n in (None, 5))
    assert (counted.public_size, counted.public_size_declared) == (4, False)
    assert (declared.public_size, declared.public_size_declared) == (5, True)


NAN = np.full((2, 4, 4), np.nan, np.float32)


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"pictures": IMAGES}, r"no array 'images' in it \(it holds pictures\)"),
        ({"images": IMAGES / 255}, r"'images' is float64; .*round\(\)"),
        ({"images": NAN}, "float32, some of it NaN"),
        ({"images": IMAGES.astype(int)}, "'images' is int64"),
        ({"images": IMAGES > 3}, "'images' is bool"),
        ({"images": IMAGES[0, 0]}, r"shape \(6, 3\); it must be \(N, H, W\)"),
        ({"images": IMAGES.transpose(0, 3, 1, 2)}, r"looks like \(N, C, H, W\)"),
        ({"images": IMAGES[:0]}, "no images"),
        ({"images": IMAGES[:, :0]}, "at least one pixel"),
        ({"images": IMAGES, "labels": [0, 1]}, r"'labels' has shape \(2,\); it must be \(4,\)"),
        ({"images": IMAGES, "labels": np.eye(4)}, r"'labels' has shape \(4, 4\)"),
        ({"images": IMAGES, "labels": [0.0, 1, 1, 0]}, "labels are float64"),
        ({"images": IMAGES, "labels": [0, 1, 1, -1]}, "label -1 is negative"),
        ({"images": IMAGES, "labels": [0, 1, 1, 10**6]}, "label 1000000 is too large"),
        ({"images": IMAGES, "labels": [0, 1, 2, 0], "classes": ["a", "b"]}, "no class name"),
        ({"images": IMAGES, "labels": [0, 1, 1, 0], "classes": ["a", ""]}, "class 1 has no name"),
        ({"images": IMAGES, "labels": [0, 1, 1, 0], "classes": [1, 2]}, "'classes' is int64"),
        (
            {"images": IMAGES, "labels": ["a", "b", "b", "c"], "classes": ["a", "b"]},
            "label 'c' is not among the 2 names in the array 'classes'",
        ),
        ({"images": IMAGES, "groups": [0.5] * 4}, "'groups' is float64"),
        ({"images": IMAGES, "groups": [0]}, r"'groups' has shape \(1,\)"),
        ({"images": np.array([None, "x"], object)}, "Python objects, which are not opened"),
    ],
)
def test_what_is_no_image_set_says_why(save, arrays, says):
    with pytest.raises(RequestError, match=says) as caught:
        open_dataset(save(**arrays))
    assert "toy" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 cut short"])
def test_a_damaged_file_says_so(tmp_path, content):
    path = tmp_path / "toy.npz"
    path.write_bytes(content)
    with pytest.raises(DpdmError, match=r"toy\.npz: not a readable \.npz file"):
        open_dataset(path)


def test_a_file_with_a_damaged_array_says_so(save):
    path = save(images=IMAGES)
    data = bytearray(path.read_bytes())
    data[200:300] = bytes(100)
    path.write_bytes(data)
    with pytest.raises(DpdmError, match="not a readable"):
        open_dataset(path)


def test_one_file_has_no_splits(save):
    with pytest.raises(RequestError, match="leave out @test"):
        open_dataset(f"{save(images=IMAGES)}@test")


def with_header(path, shape):
    header = io.BytesIO()
    what = {"descr": "|u1", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(header, what)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", header.getvalue())
    return path


@pytest.mark.parametrize("count", [10**11, 10**30])
def test_a_header_that_claims_more_than_memory_says_so(tmp_path, count):
    with pytest.raises(DpdmError, match=r"huge\.npz: more than fits into memory"):
        open_dataset(with_header(tmp_path / "huge.npz", (count, 28, 28)))


def test_images_without_pixels_are_not_made_into_images(save):
    with pytest.raises(RequestError, match=r"images are 0x6 .*at least one pixel"):
        open_dataset(save(images=IMAGES[:, :0]), image_size=8)


@pytest.mark.parametrize(("local", "central", "value"), [(6, 8, 1), (8, 10, 99)])
def test_an_archive_that_is_encrypted_or_packed_otherwise_says_so(save, local, central, value):
    path = save(images=IMAGES)
    data = bytearray(path.read_bytes())
    data[local] = data[data.find(b"PK\x01\x02") + central] = value
    path.write_bytes(data)
    with pytest.raises(DpdmError, match="not a readable"):
        open_dataset(path)

"""What is written opens again as it was; nothing is overwritten, and nothing half-written stays."""

import numpy as np
import pytest
from PIL import Image

from dpdm.data import open_dataset, write_samples
from dpdm.errors import DpdmError, RequestError

LAYOUTS = ["out.npz", "out.parquet", "out"]
LABELS = np.array([1, 0, 1, 2, 1])


def pixels(channels=1):
    return np.random.default_rng(channels).integers(0, 256, (5, 4, 6, channels), np.uint8)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_images_of_any_channels_come_back(tmp_path, layout, channels):
    write_samples(tmp_path / layout, pixels(channels), LABELS, ("a", "b", "c"))
    data = open_dataset(tmp_path / layout, channels=channels)
    np.testing.assert_array_equal(data.private_images, pixels(channels))
    np.testing.assert_array_equal(data.private_labels, LABELS)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_class_names_and_their_order_come_back(tmp_path, layout):
    classes = ("T-shirt/top", "zebra", "10", "9", "an empty class", ".hidden", "train", "Größe")
    labels = np.array([0, 1, 2, 3, 5])
    write_samples(tmp_path / layout, pixels(), labels, classes)
    data = open_dataset(tmp_path / layout)
    assert data.classes == classes
    np.testing.assert_array_equal(data.private_labels, labels)
    np.testing.assert_array_equal(data.private_images, pixels())


@pytest.mark.parametrize("layout", LAYOUTS)
def test_unlabelled_images_come_back_unlabelled(tmp_path, layout):
    write_samples(tmp_path / layout, pixels(), None, ())
    data = open_dataset(tmp_path / layout)
    np.testing.assert_array_equal(data.private_images, pixels())
    assert data.private_labels is None


def test_a_folder_has_one_folder_of_pngs_per_class(tmp_path):
    write_samples(tmp_path / "out", pixels(), LABELS, ("cat", "dog/s", "owl"))
    files = sorted(str(p.relative_to(tmp_path / "out")) for p in (tmp_path / "out").rglob("*.*"))
    assert files == [
        "cat/00001.png",
        "classes.txt",
        "dog_s/00000.png",
        "dog_s/00002.png",
        "dog_s/00004.png",
        "owl/00003.png",
    ]
    stored = np.asarray(Image.open(tmp_path / "out" / "owl" / "00003.png"))
    np.testing.assert_array_equal(stored, pixels()[3, ..., 0])


def test_parent_folders_are_made(tmp_path):
    write_samples(tmp_path / "new" / "deep" / "out.npz", pixels(), None, ())
    assert open_dataset(tmp_path / "new" / "deep" / "out.npz").private_count == 5


def test_an_ending_with_a_slash_is_a_folder(tmp_path):
    write_samples(f"{tmp_path}/out.npz/", pixels(), None, ())
    assert (tmp_path / "out.npz").is_dir()


def test_an_empty_folder_is_filled(tmp_path):
    (tmp_path / "out").mkdir()
    write_samples(tmp_path / "out", pixels(), None, ())
    assert open_dataset(tmp_path / "out").private_count == 5


@pytest.mark.parametrize("layout", LAYOUTS)
def test_nothing_is_overwritten(tmp_path, layout):
    write_samples(tmp_path / layout, pixels(), None, ())
    with pytest.raises(RequestError, match="is there already"):
        write_samples(tmp_path / layout, pixels()[:1], None, ())
    assert open_dataset(tmp_path / layout).private_count == 5


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_failure_leaves_nothing_behind(tmp_path, monkeypatch, layout):
    def full(*_args, **_options):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("dpdm.data.writers._png", full)
    monkeypatch.setattr(np, "savez_compressed", full)
    with pytest.raises(DpdmError, match=r"cannot be written \(No space left on device"):
        write_samples(tmp_path / layout, pixels(), LABELS, ("a", "b", "c"))
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_says_so(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(DpdmError, match="cannot be written") as caught:
        write_samples(tmp_path / "file" / "out.npz", pixels(), None, ())
    assert not isinstance(caught.value, RequestError)


@pytest.mark.parametrize(
    ("path", "images", "labels", "classes", "says"),
    [
        ("out.npz", pixels() / 255, None, (), "must be uint8"),
        ("out.npz", pixels()[..., 0], None, (), "must be uint8"),
        ("out.npz", pixels()[:0], None, (), "no images"),
        ("out.npz", pixels(), LABELS[:2], ("a", "b", "c"), "one for each image"),
        ("out.npz", pixels(), LABELS, ("a", "b"), "label 2 has no class name"),
        ("out.npz", pixels(), LABELS - 1, ("a", "b"), "label -1 is negative"),
        ("out.npz", pixels(), LABELS / 2, ("a", "b", "c"), "labels are float64"),
        ("out.npz", pixels(), None, ("a",), "1 classes but no labels"),
        ("out", pixels(), LABELS, ("a/b", "a:b", "c"), "would share the folder 'a_b'"),
        ("out", pixels(), LABELS, ("Cat", "cat", "c"), "would share the folder 'cat'"),
        ("out.png", pixels(), None, (), r"\.png is not written; give FILE\.npz"),
    ],
)
def test_what_cannot_be_written_is_refused(tmp_path, path, images, labels, classes, says):
    with pytest.raises(RequestError, match=says):
        write_samples(tmp_path / path, images, labels, classes)
    assert list(tmp_path.iterdir()) == []

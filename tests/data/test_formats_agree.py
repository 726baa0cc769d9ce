"""The same images give the same tensors, labels and classes, whatever they are stored in."""

import struct

import numpy as np
import pytest

from dpdm.data import open_dataset, write_samples


def write_idx(folder, data):
    folder.mkdir()
    values = {"images-idx3": data.private_images[..., 0], "labels-idx1": data.private_labels}
    for name, array in values.items():
        header = struct.pack(">HBB", 0, 8, array.ndim) + struct.pack(
            f">{array.ndim}I", *array.shape
        )
        content = header + array.astype(np.uint8).tobytes()
        (folder / f"train-{name}-ubyte").write_bytes(content)


@pytest.fixture(scope="module")
def stored(tmp_path_factory):
    """The test digits (the fewer) in every format."""
    root = tmp_path_factory.mktemp("digits")
    data = open_dataset("digits@test")
    for name in ("set.npz", "set.parquet", "folder"):
        if name.endswith("parquet"):
            pytest.importorskip("pyarrow")
        write_samples(root / name, data.private_images, data.private_labels, data.classes)
    write_idx(root / "idx", data)
    names = [f"{i:05d}.png" for i in range(data.private_count)]
    write_samples(root / "flat", data.private_images, None, ())
    rows = zip(names, data.private_labels, strict=True)
    table = "file_name,label\n" + "".join(f"{name},{label}\n" for name, label in rows)
    (root / "flat" / "metadata.csv").write_text(table)
    write_samples(root / "plain", data.private_images, data.private_labels, data.classes)
    (root / "plain" / "classes.txt").unlink()
    return root


@pytest.mark.parametrize("name", ["set.npz", "set.parquet", "folder", "plain", "flat", "idx"])
@pytest.mark.parametrize("options", [{}, {"image_size": 6, "channels": 3}, {"image_size": 16}])
def test_every_format_gives_the_digits(stored, name, options):
    expected, data = open_dataset("digits@test", **options), open_dataset(stored / name, **options)
    np.testing.assert_array_equal(data.private_images, expected.private_images)
    np.testing.assert_array_equal(data.private_labels, expected.private_labels)
    assert data.classes == expected.classes
    assert data.public_size == expected.public_size

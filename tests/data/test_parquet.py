"""Parquet files in the layout of Hugging Face image data sets, as that library writes them."""

import builtins
import json

import numpy as np
import pytest

from dpdm.data import open_dataset, write_samples
from dpdm.errors import DpdmError, RequestError

pa = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
# What datasets 5.2 puts into a file of an Image and a ClassLabel column, seen with pyarrow.
METADATA = {
    "info": {
        "features": {
            "image": {"_type": "Image"},
            "label": {"names": ["cat", "dog"], "_type": "ClassLabel"},
        }
    }
}


@pytest.fixture
def save(tmp_path):
    def save(columns, types, metadata=None, name="toy.parquet"):
        schema = pa.schema(types)
        if metadata is not None:
            schema = schema.with_metadata({"huggingface": json.dumps(metadata)})
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        parquet.write_table(pa.table(columns, schema=schema), path)
        return path

    return save


@pytest.fixture
def images(grey):
    return [{"bytes": grey(level), "path": f"{level}.png"} for level in (5, 6, 7)]


def levels(data):
    return data.private_images[:, 0, 0, 0].tolist()


def test_images_labels_and_class_names_are_read(save, images):
    data = open_dataset(
        save({"image": images, "label": [1, 0, 1]}, {"image": IMAGE, "label": pa.int64()}, METADATA)
    )
    assert levels(data) == [5, 6, 7]
    assert data.private_labels.tolist() == [1, 0, 1]
    assert data.classes == ("cat", "dog")


def test_labels_without_names_are_numbers(save, images):
    data = open_dataset(
        save({"image": images, "label": [1, 0, 2]}, {"image": IMAGE, "label": pa.int32()})
    )
    assert data.classes == ("0", "1", "2")


def test_text_labels_are_in_natural_order(save, images):
    data = open_dataset(
        save({"img": images, "label": ["b10", "b9", "b9"]}, {"img": IMAGE, "label": pa.string()})
    )
    assert data.classes == ("b9", "b10")


def test_a_group_column_says_whose_image_it_is(save, images):
    data = open_dataset(
        save({"image": images, "group": ["q", "p", "q"]}, {"image": IMAGE, "group": pa.string()})
    )
    assert data.private_groups.tolist() == [1, 0, 1]


def test_bare_bytes_are_images_too(save, images):
    data = open_dataset(save({"image": [i["bytes"] for i in images]}, {"image": pa.binary()}))
    assert levels(data) == [5, 6, 7]


def test_other_columns_are_not_read(save, images):
    data = open_dataset(
        save({"image": images, "caption": ["", "", ""]}, {"image": IMAGE, "caption": pa.string()})
    )
    assert data.classes == ()
    assert data.private_groups is None


def test_a_folder_of_shards_is_read_in_natural_order(save, images, tmp_path):
    for number, image in zip((10, 9, 8), images, strict=True):
        save({"image": [image]}, {"image": IMAGE}, name=f"shards/part-{number}.parquet")
    assert levels(open_dataset(tmp_path / "shards")) == [7, 6, 5]


def test_shards_called_train_and_test_are_splits(save, images, tmp_path):
    save({"image": images[:2]}, {"image": IMAGE}, name="hub/train-00000-of-00001.parquet")
    save({"image": images[2:]}, {"image": IMAGE}, name="hub/test-00000-of-00001.parquet")
    assert levels(open_dataset(tmp_path / "hub")) == [5, 6]
    assert levels(open_dataset(f"{tmp_path / 'hub'}@test")) == [7]


def test_shards_of_another_schema_are_refused(save, images, tmp_path):
    save({"image": images}, {"image": IMAGE}, name="shards/a.parquet")
    save({"photo": images}, {"photo": IMAGE}, name="shards/b.parquet")
    with pytest.raises(RequestError, match=r"b\.parquet: its columns .* differ"):
        open_dataset(tmp_path / "shards")


@pytest.mark.parametrize(
    ("image", "label", "reason"),
    [
        ({"bytes": b"", "path": None}, 0, r"toy\.parquet, row 3 \(empty file\)"),
        ({"bytes": None, "path": "/home/a.png"}, 0, "no bytes, only a path"),
        (None, 0, "no bytes, only a path"),
        ({"bytes": b"x", "path": None}, 0, "damaged, or not a PNG"),
        ({"bytes": b"x", "path": None}, None, "no value in column 'label'"),
        ({"bytes": b"x", "path": None}, -1, "no value in column 'label'"),
    ],
)
def test_a_bad_row_is_named_and_can_be_skipped(save, images, image, label, reason):
    path = save(
        {"image": [*images, image], "label": [0, 1, 1, label]},
        {"image": IMAGE, "label": pa.int64()},
        METADATA,
    )
    with pytest.raises(RequestError, match=reason):
        open_dataset(path)
    assert open_dataset(path, on_error="skip").private_labels.tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"text": pa.string()}, "no image column.*its columns are text"),
        ({"a": IMAGE, "b": IMAGE}, r"several image columns \(a, b\)"),
        ({"image": IMAGE, "label": pa.float64()}, "column 'label' is double"),
        ({"image": IMAGE, "group": pa.list_(pa.int64())}, "column 'group' is list"),
    ],
)
def test_columns_that_cannot_be_told_are_named(save, columns, says):
    with pytest.raises(RequestError, match=says):
        open_dataset(save({name: [None] for name in columns}, columns))


@pytest.mark.parametrize(
    ("kind", "value", "says"),
    [
        (pa.list_(pa.int64()), [1, 300], "column 'image' is list"),
        (pa.struct([("path", pa.string())]), {"path": "a.png"}, "column 'image' is struct<path"),
        (
            pa.struct([("bytes", pa.list_(pa.int64()))]),
            {"bytes": [300]},
            "column 'image' is struct<bytes: list",
        ),
    ],
)
def test_an_image_column_without_bytes_is_named(save, kind, value, says):
    path = save({"image": [value]}, {"image": kind}, METADATA)
    with pytest.raises(RequestError, match=rf"toy\.parquet: {says}.*images are binary"):
        open_dataset(path)


@pytest.mark.parametrize("twice", ["image", "label", "group"])
def test_a_column_that_appears_twice_is_named(tmp_path, grey, twice):
    columns = {"image": grey(), "label": 0, "group": 0}
    names = [*columns, twice]
    table = pa.Table.from_arrays([pa.array([columns[name]]) for name in names], names=names)
    parquet.write_table(table, tmp_path / "toy.parquet")
    with pytest.raises(RequestError, match=rf"toy\.parquet: column '{twice}' appears twice"):
        open_dataset(tmp_path / "toy.parquet")


def test_several_class_labels_need_one_called_label(save, images):
    labels = {"coarse": [0, 1, 1], "fine": [0, 1, 1]}
    features = {name: {"names": ["a", "b"], "_type": "ClassLabel"} for name in labels}
    metadata = {"info": {"features": features}}
    types = {"image": IMAGE, "coarse": pa.int64(), "fine": pa.int64()}
    with pytest.raises(RequestError, match=r"several label columns \(coarse, fine\)"):
        open_dataset(save({"image": images, **labels}, types, metadata))


def test_a_label_beyond_the_names_is_refused(save, images):
    path = save(
        {"image": images, "label": [0, 1, 2]}, {"image": IMAGE, "label": pa.int64()}, METADATA
    )
    with pytest.raises(RequestError, match="label 2 has no class name"):
        open_dataset(path)


def test_labels_of_two_kinds_are_refused(save, images, tmp_path):
    for name, label, kind in (("a", 0, pa.int64()), ("b", "x", pa.string())):
        save(
            {"image": images, "label": [label] * 3},
            {"image": IMAGE, "label": kind},
            name=f"shards/{name}.parquet",
        )
    with pytest.raises(RequestError, match="numbers in one file and text in another"):
        open_dataset(tmp_path / "shards")


def test_a_label_that_is_no_class_number_is_refused(save, images):
    kinds = {"image": IMAGE, "label": pa.uint64()}
    path = save({"image": images, "label": [0, 1, 2**64 - 1]}, kinds)
    with pytest.raises(RequestError, match="label 18446744073709551615 is no class number"):
        open_dataset(path)


def test_a_column_of_paths_says_what_to_do(save):
    metadata = {"info": {"features": {"image": {"_type": "Image"}}}}
    path = save({"image": ["a.png"]}, {"image": pa.string()}, metadata)
    with pytest.raises(RequestError, match="'image' holds paths of images; embed"):
        open_dataset(path)


@pytest.mark.parametrize("content", [b"", b"PAR1 cut short", b"PAR1" + bytes(100) + b"PAR1"])
def test_a_damaged_file_says_so(tmp_path, content):
    path = tmp_path / "toy.parquet"
    path.write_bytes(content)
    with pytest.raises(DpdmError, match="not a readable parquet file") as caught:
        open_dataset(path)
    assert "\n" not in str(caught.value)


def test_without_pyarrow_the_error_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "toy.parquet").touch()
    real = builtins.__import__

    def without_pyarrow(name, *rest, **more):
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without_pyarrow)
    with pytest.raises(RequestError, match=r"pip install 'dpdm\[parquet\]'"):
        open_dataset(tmp_path / "toy.parquet")
    with pytest.raises(RequestError, match=r"pip install 'dpdm\[parquet\]'"):
        write_samples(tmp_path / "new.parquet", np.zeros((1, 2, 2, 1), np.uint8), None, ())


def test_what_is_written_is_what_the_datasets_library_writes(tmp_path):
    images = np.zeros((2, 3, 4, 1), np.uint8)
    write_samples(tmp_path / "a.parquet", images, np.array([0, 1]), ("cat", "dog"))
    schema = parquet.read_schema(tmp_path / "a.parquet")
    assert schema.field("image").type == IMAGE
    assert schema.field("label").type == pa.int64()
    assert json.loads(schema.metadata[b"huggingface"]) == METADATA


def test_the_datasets_library_opens_what_is_written(tmp_path):
    datasets = pytest.importorskip("datasets")
    images = np.arange(24, dtype=np.uint8).reshape(2, 3, 4, 1)
    write_samples(tmp_path / "a.parquet", images, np.array([0, 1]), ("cat", "dog"))
    rows = datasets.Dataset.from_parquet(str(tmp_path / "a.parquet"))
    assert rows.features["label"].names == ["cat", "dog"]
    np.testing.assert_array_equal(np.asarray(rows[1]["image"]), images[1, ..., 0])

"""Named data sets: checked against what was published, never under a false name."""

import gzip
import hashlib
import io
import shutil
import tarfile
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from dpdm.data import list_datasets, open_dataset
from dpdm.data.catalogue import NAMED
from dpdm.errors import DpdmError, RequestError


def test_digits_are_scikit_learns_at_a_fixed_scale():
    both = [open_dataset(spec) for spec in ("digits", "digits@test")]
    values = np.concatenate([d.private_images for d in both])[..., 0]
    counts = np.bincount(values.reshape(-1), minlength=256)
    raw = np.bincount(load_digits().images.astype(int).reshape(-1), minlength=17)
    levels = np.floor(np.arange(17) * 255 / 16 + 0.5).astype(int)
    np.testing.assert_array_equal(counts[levels], raw)
    assert counts.sum() == raw.sum()


def test_digits_have_a_fixed_split_of_four_fifths():
    """By class, then by the SHA-256 of the index as text: every fifth is a test image."""
    bunch = load_digits()
    order = []
    for label in range(10):
        members = [i for i in range(1797) if bunch.target[i] == label]
        order += sorted(members, key=lambda i: hashlib.sha256(str(i).encode()).hexdigest())
    for spec, chosen in {
        "digits@test": sorted(order[::5]),
        "digits": sorted(set(order) - set(order[::5])),
    }.items():
        data = open_dataset(spec)
        assert data.private_labels.tolist() == bunch.target[chosen].tolist()
        np.testing.assert_allclose(
            data.private_images[..., 0], bunch.images[chosen] * (255 / 16), atol=0.51
        )
    assert len(order[::5]) == 360


def test_digits_have_every_class_in_proportion():
    train, test = open_dataset("digits"), open_dataset("digits@test")
    share = np.divide(test.private_class_counts, train.private_class_counts)
    np.testing.assert_allclose(share, 0.25, atol=0.01)
    assert train.classes == tuple("0123456789")


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """An empty folder that DPDM_DATA names."""
    folder = tmp_path / "offline"
    folder.mkdir()
    monkeypatch.setenv("DPDM_DATA", str(folder))
    return folder


def test_a_set_that_is_not_here_says_how_to_get_it(offline):
    with pytest.raises(RequestError, match=r"run `dpdm data fetch cifar10`, or set DPDM_DATA"):
        open_dataset("cifar10")


def test_mnist_is_opened_from_the_folder_in_dpdm_data(shared_data, monkeypatch):
    monkeypatch.setenv("DPDM_DATA", str(shared_data))
    train, test = open_dataset("mnist"), open_dataset("mnist@test")
    assert (train.name, train.shape, train.private_count) == ("MNIST", (28, 28, 1), 60_000)
    assert (test.name, test.private_count) == ("MNIST, test", 10_000)
    # Class counts and first labels as the MNIST page's own files have them.
    assert train.private_class_counts == (
        5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949,
    )  # fmt: skip
    assert train.private_labels[:8].tolist() == [5, 0, 4, 1, 9, 2, 1, 3]


def test_the_repackaged_fashion_split_goes_by_its_own_name(shared_data, monkeypatch):
    monkeypatch.setenv("DPDM_DATA", str(shared_data))
    for spec in ("fashion", str(shared_data / "fashion")):
        assert open_dataset(spec).name == "Fashion-MNIST (repackaged split)"
    assert open_dataset("fashion").classes[9] == "Ankle boot"
    (listed,) = (d for d in list_datasets() if d["name"] == "fashion")
    assert (listed["title"], listed["train"]) == ("Fashion-MNIST (repackaged split)", 59_947)


def test_unpacked_files_are_known_by_their_content(shared_data, offline):
    (offline / "mnist").mkdir()
    for packed in (shared_data / "mnist").glob("*.gz"):
        (offline / "mnist" / packed.stem).write_bytes(gzip.decompress(packed.read_bytes()))
    assert open_dataset("mnist@test").name == "MNIST, test"


def test_files_that_are_not_the_published_ones_are_refused(shared_data, offline):
    shutil.copytree(shared_data / "fashion", offline / "mnist")
    with pytest.raises(DpdmError, match=r"train-images-idx3-ubyte\.gz: not the published file of "):
        open_dataset("mnist")


def test_files_of_neither_edition_are_refused_naming_both(shared_data, offline):
    shutil.copytree(shared_data / "mnist", offline / "fashion")
    with pytest.raises(
        DpdmError,
        match=r"neither .* of Fashion-MNIST nor of Fashion-MNIST \(repackaged split\)",
    ):
        open_dataset("fashion")


def test_labels_of_another_edition_are_refused(shared_data, monkeypatch):
    monkeypatch.setenv("DPDM_DATA", str(shared_data))
    fashion = NAMED["fashion"]
    official, repackaged = fashion.editions
    labels = {"train-labels-idx1-ubyte": repackaged.digests["train-labels-idx1-ubyte"]}
    images = {k: v for k, v in repackaged.digests.items() if "images" in k}
    mixed = replace(
        fashion, editions=(replace(official, digests=labels), replace(repackaged, digests=images))
    )
    monkeypatch.setitem(NAMED, "fashion", mixed)
    with pytest.raises(DpdmError, match="put files of one of them there"):
        open_dataset("fashion")


def cifar_records(count, first):
    """Records as https://www.cs.toronto.edu/~kriz/cifar.html describes them: label, R, G, B."""
    image = np.zeros((count, 3, 32, 32), np.uint8)
    image[:, 0] = 200
    image[:, 1, 0, :] = 100
    labels = (np.arange(first, first + count) % 10).astype(np.uint8)
    return np.concatenate([labels[:, None], image.reshape(count, -1)], 1).tobytes()


@pytest.fixture
def cifar(offline):
    folder = offline / "cifar10" / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    for number in range(1, 6):
        (folder / f"data_batch_{number}.bin").write_bytes(cifar_records(3, number))
    (folder / "test_batch.bin").write_bytes(cifar_records(2, 7))
    return folder


def test_cifar10_is_read_from_its_binary_folder_with_a_note(cifar, capsys):
    data = open_dataset("cifar10")
    assert (data.name, data.shape) == ("CIFAR-10", (32, 32, 3))
    assert data.private_labels.tolist() == [1, 2, 3, 2, 3, 4, 3, 4, 5, 4, 5, 6, 5, 6, 7]
    assert data.private_images[0, :2, 5].tolist() == [[200, 100, 0], [200, 0, 0]]
    said = capsys.readouterr().err
    assert said.count("note:") == 1
    assert "data_batch_1.bin is not the published file of CIFAR-10 (its checksum differs)" in said
    assert open_dataset("cifar10@test").private_labels.tolist() == [7, 8]


def test_cifar10s_published_batches_are_known_without_their_archive(cifar, monkeypatch, capsys):
    batches = {path.name: f"md5:{md5(path.read_bytes())[4:]}" for path in cifar.iterdir()}
    monkeypatch.setattr("dpdm.data.published.CIFAR_BATCHES", batches)
    open_dataset("cifar10")
    assert capsys.readouterr().err == ""


def archive(folder):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as tar:
        tar.add(folder, folder.name)
    return file.getvalue()


def known(name, file, digest):
    """The catalogue's entry with another digest for one of its files."""
    remotes = tuple(replace(r, digest=digest) if r.name == file else r for r in NAMED[name].remotes)
    return replace(NAMED[name], remotes=remotes)


def md5(data):
    return "md5:" + hashlib.md5(data, usedforsecurity=False).hexdigest()


def test_cifar10_is_read_from_its_archive(cifar, monkeypatch):
    packed = archive(cifar)
    shutil.rmtree(cifar)
    (cifar.parent / "cifar-10-binary.tar.gz").write_bytes(packed)
    with pytest.raises(DpdmError, match="not the published file of CIFAR-10"):
        open_dataset("cifar10")
    entry = known("cifar10", "cifar-10-binary.tar.gz", md5(packed))
    monkeypatch.setitem(NAMED, "cifar10", entry)
    assert open_dataset("cifar10").private_count == 15


def test_cifar10_as_a_pickle_is_not_opened(offline):
    (offline / "cifar10").mkdir()
    (offline / "cifar10" / "cifar-10-python.tar.gz").touch()
    with pytest.raises(RequestError, match="a pickle, which is not opened"):
        open_dataset("cifar10")


def test_a_damaged_cifar10_batch_is_named(cifar):
    (cifar / "data_batch_3.bin").write_bytes(b"short")
    with pytest.raises(DpdmError, match=r"data_batch_3\.bin: 5 bytes are no records"):
        open_dataset("cifar10")


@pytest.fixture
def celeba(offline, monkeypatch):
    folder = offline / "celeba"
    (folder / "img_align_celeba").mkdir(parents=True)
    for number in range(1, 6):
        image = np.zeros((218, 178, 3), np.uint8)
        image[39:179, 19:159] = 50 * number  # the central 140 pixels
        Image.fromarray(image).save(
            folder / "img_align_celeba" / f"00000{number}.jpg", quality=100, subsampling=0
        )
    lists = {
        "list_attr_celeba.txt": "5\nYoung Male Smiling \n"
        + "".join(f"00000{n}.jpg -1 {1 if n % 2 else -1:2d}  1\n" for n in range(1, 6)),
        "list_eval_partition.txt": "".join(
            f"00000{n}.jpg {part}\n" for n, part in enumerate("00122", 1)
        ),
    }
    entry = NAMED["celeba"]
    for name, text in lists.items():
        (folder / name).write_text(text)
        remotes = [
            replace(r, digest=md5(text.encode())) if r.name == name else r for r in entry.remotes
        ]
        entry = replace(entry, remotes=tuple(remotes))
    monkeypatch.setitem(NAMED, "celeba", entry)
    return folder


def test_celeba_is_its_central_140_pixels_at_64(celeba):
    data = open_dataset("celeba")
    assert (data.name, data.shape) == ("CelebA", (64, 64, 3))
    np.testing.assert_allclose(data.private_images[1, 4:-4, 4:-4], 100, atol=3)
    assert data.private_sizes_seen == {(218, 178): 2}


def test_celeba_is_resized_to_the_size_asked_for(celeba):
    assert open_dataset("celeba", image_size=32, channels=1).shape == (32, 32, 1)


def test_celeba_labels_are_the_attribute_male(celeba):
    data = open_dataset("celeba")
    assert data.classes == ("female", "male")
    assert data.private_labels.tolist() == [1, 0]


def test_celeba_test_is_the_official_test_part(celeba):
    assert open_dataset("celeba@test").private_labels.tolist() == [0, 1]


def test_celeba_is_read_from_its_archive(celeba, monkeypatch):
    expected = open_dataset("celeba").private_images
    with zipfile.ZipFile(celeba / "img_align_celeba.zip", "w") as packed:
        for image in (celeba / "img_align_celeba").iterdir():
            packed.write(image, f"img_align_celeba/{image.name}")
    shutil.rmtree(celeba / "img_align_celeba")
    data = (celeba / "img_align_celeba.zip").read_bytes()
    monkeypatch.setitem(NAMED, "celeba", known("celeba", "img_align_celeba.zip", md5(data)))
    np.testing.assert_array_equal(open_dataset("celeba").private_images, expected)


def test_a_missing_celeba_image_is_named(celeba):
    (celeba / "img_align_celeba" / "000002.jpg").unlink()
    with pytest.raises(RequestError, match=r"000002\.jpg \(No such file"):
        open_dataset("celeba")


def test_celeba_lists_that_are_not_the_published_ones_are_refused(celeba):
    with (celeba / "list_attr_celeba.txt").open("a") as file:
        file.write("000006.jpg 1 1 1\n")
    with pytest.raises(DpdmError, match=r"list_attr_celeba\.txt: not the published file"):
        open_dataset("celeba")


def test_the_list_says_what_is_here_and_how_to_get_the_rest(offline):
    listed = {entry["name"]: entry for entry in list_datasets()}
    assert list(listed) == ["digits", "mnist", "fashion", "cifar10", "celeba"]
    assert listed["digits"]["found"] == "built in"
    assert listed["digits"]["get"] is None
    assert listed["mnist"]["found"] is None
    assert "dpdm data fetch mnist" in listed["mnist"]["get"]
    assert (listed["celeba"]["train"], listed["celeba"]["test"]) == (162_770, 19_962)

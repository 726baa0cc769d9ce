"""Readers of the published data sets, each file checked against its checksum at every open.

``digits`` is scikit-learn's: 1,797 images of 8x8 in 17 grey levels, level v as round(255 v / 16).
Its split is fixed: images in order of class, within a class in order of the SHA-256 of their
index as text; every fifth is a test image (360), the others train (1,437), both in their original
order.

CelebA is cut to its central 140x140 pixels, as in the score-based models that the paper builds on;
its official validation part is used by neither split.
"""

from __future__ import annotations

import hashlib
import sys
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from dpdm.data.catalogue import (
    CELEBA_ATTRIBUTES,
    CELEBA_CROP,
    CELEBA_FOLDER,
    CELEBA_SIZE,
    CELEBA_SPLITS,
    CELEBA_ZIP,
    CIFAR_ARCHIVE,
    CIFAR_BATCHES,
    CIFAR_FOLDER,
    Edition,
    Named,
)
from dpdm.data.collection import Collection, Encoded
from dpdm.data.dataset import Images, Integers
from dpdm.data.download import matches
from dpdm.data.formats.idx import (
    as_images,
    as_labels,
    digests,
    find_idx,
    parse_idx,
    read_file,
    standard_stem,
)
from dpdm.errors import DpdmError


def edition_of(stem: str, found: frozenset[str], editions: tuple[Edition, ...]) -> Edition | None:
    """The edition that a file with these digests belongs to."""
    return next((e for e in editions if found & e.digests.get(stem, frozenset())), None)


def _title(title: str, split: str) -> str:
    return title if split == "train" else f"{title}, {split}"


def read_digits(entry: Named, split: str) -> Collection:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    labels = bunch.target.astype(np.int64)
    images = np.floor(bunch.images * (255 / 16) + 0.5).astype(np.uint8)[..., None]
    order = sorted(
        range(len(labels)), key=lambda i: (labels[i], hashlib.sha256(str(i).encode()).digest())
    )
    is_test = np.zeros(len(labels), dtype=bool)
    is_test[order[::5]] = True
    chosen = is_test if split == "test" else ~is_test
    return Collection(_title(entry.title, split), images[chosen], labels[chosen], entry.classes)


def _idx(entry: Named, folder: Path, split: str) -> Collection:
    files = find_idx(folder)[split]
    if files.labels is None:
        raise DpdmError(f"{folder}: the labels beside {files.images.name} are missing; get them")
    contents, editions = [], []
    for path in (files.images, files.labels):
        content = read_file(path)
        contents.append(content)
        edition = edition_of(standard_stem(path), digests(path, content), entry.editions)
        if edition is None:
            raise DpdmError(_unknown_file(entry, path))
        editions.append(edition)
    if editions[0] is not editions[1]:
        raise DpdmError(
            f"{folder}: {files.images.name} is of {editions[0].title}, {files.labels.name} of "
            f"{editions[1].title}; put files of one of them there"
        )
    images = as_images(str(files.images), parse_idx(str(files.images), contents[0]))
    labels = as_labels(str(files.labels), parse_idx(str(files.labels), contents[1]), len(images))
    return Collection(_title(editions[0].title, split), images, labels, entry.classes)


def _unknown_file(entry: Named, path: Path) -> str:
    titles = [edition.title for edition in entry.editions]
    those = f"of {titles[0]}" if len(titles) == 1 else f"of {' nor of '.join(titles)}"
    neither = "not the published file" if len(titles) == 1 else "neither the published file"
    return (
        f"{path}: {neither} {those} (its checksum is not theirs); run `dpdm data fetch "
        f"{entry.name}`, or open the folder by its path as data of your own"
    )


def _cifar10(entry: Named, folder: Path, split: str) -> Collection:
    names = ["test_batch"] if split == "test" else [f"data_batch_{i}" for i in range(1, 6)]
    wanted = [f"{CIFAR_FOLDER}/{name}.bin" for name in names]
    archive = folder / CIFAR_ARCHIVE
    if archive.is_file():
        _check_remote(entry, archive)
        batches = _from_tar(archive, wanted)
    else:
        batches = {name: (folder / name).read_bytes() for name in wanted}
        for name in wanted:
            if not matches(folder / name, CIFAR_BATCHES[Path(name).name]):
                print(
                    f"note: {folder / name} is not the published file of {entry.title} (its "
                    "checksum differs); it is read all the same",
                    file=sys.stderr,
                )
                break
    images, labels = list[Images](), list[Integers]()
    for name in wanted:
        records = np.frombuffer(batches[name], np.uint8)
        if len(records) == 0 or len(records) % 3073:
            raise DpdmError(f"{folder / name}: {len(records)} bytes are no records of 3073")
        records = records.reshape(-1, 3073)  # a label, then 32x32 red, green and blue
        labels.append(records[:, 0].astype(np.int64))
        images.append(records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    return Collection(
        _title(entry.title, split),
        np.ascontiguousarray(np.concatenate(images)),
        np.concatenate(labels),
        entry.classes,
    )


def _from_tar(archive: Path, wanted: list[str]) -> dict[str, bytes]:
    found = dict[str, bytes]()
    with tarfile.open(archive, "r:gz") as tar:
        for member in tar:
            if member.name in wanted and (file := tar.extractfile(member)) is not None:
                found[member.name] = file.read()
    return found


def _celeba(entry: Named, folder: Path, split: str) -> Collection:
    for remote in entry.remotes[:2]:
        _check_remote(entry, folder / remote.name)
    part = {"train": "0", "test": "2"}[split]
    files = [file for file, *rest in _table(folder / CELEBA_SPLITS) if rest == [part]]
    male = _celeba_attribute(folder / CELEBA_ATTRIBUTES, "Male")
    archive = folder / CELEBA_ZIP
    if archive.is_file():
        _check_remote(entry, archive)
        read = zipfile.ZipFile(archive).read
        images = [Encoded(file, partial(read, f"{CELEBA_FOLDER}/{file}")) for file in files]
    else:
        _note_unchecked(folder / CELEBA_FOLDER)
        images = [Encoded(file, (folder / CELEBA_FOLDER / file).read_bytes) for file in files]
    missing = [file for file in files if file not in male]
    if missing:
        raise DpdmError(f"{folder / CELEBA_ATTRIBUTES}: no line for {missing[0]}; get it again")
    return Collection(
        _title(entry.title, split),
        images,
        np.asarray([male[file] for file in files], dtype=np.int64),
        entry.classes,
        crop=CELEBA_CROP,
        default_size=CELEBA_SIZE,
    )


def _celeba_attribute(path: Path, attribute: str) -> dict[str, int]:
    """File to 0 or 1. The file has a line with the count, one with the names, then -1 and 1."""
    lines = _table(path)
    next(lines)
    column = 1 + next(lines).index(attribute)
    return {line[0]: int(line[column] == "1") for line in lines}


def _table(path: Path) -> Iterator[list[str]]:
    with path.open(encoding="utf-8") as file:
        for line in file:
            if words := line.split():
                yield words


def _check_remote(entry: Named, path: Path) -> None:
    digest = next(remote.digest for remote in entry.remotes if remote.name == path.name)
    if not matches(path, digest):
        raise DpdmError(
            f"{path}: not the published file of {entry.title} (its checksum is not {digest}); "
            f"run `dpdm data fetch {entry.name}`, or open the folder by its path as your own data"
        )


def _note_unchecked(path: Path) -> None:
    print(f"note: {path} has no published checksum and was not checked", file=sys.stderr)


READERS: dict[str, Callable[[Named, Path, str], Collection]] = {
    "mnist": _idx,
    "fashion": _idx,
    "cifar10": _cifar10,
    "celeba": _celeba,
}

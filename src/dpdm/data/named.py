"""The named data sets: what there is, where it lies on this machine, and opening it.

Layout of ``$DPDM_DATA`` and of the cache, file names as published:

    mnist/ fashion/   train-images-idx3-ubyte(.gz), train-labels-..., t10k-images-... and
                      t10k-labels-...
    cifar10/          cifar-10-binary.tar.gz, or cifar-10-batches-bin/
    celeba/           list_attr_celeba.txt, list_eval_partition.txt, and img_align_celeba.zip or
                      img_align_celeba/
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dpdm.data.catalogue import (
    CELEBA_ATTRIBUTES,
    CELEBA_FOLDER,
    CELEBA_SPLITS,
    CELEBA_ZIP,
    CIFAR_ARCHIVE,
    CIFAR_FOLDER,
    NAMED,
    Named,
)
from dpdm.data.collection import Collection
from dpdm.data.download import data_folders, named
from dpdm.data.formats.idx import (
    IdxFiles,
    digests,
    find_idx,
    parse_idx,
    read_file,
    standard_stem,
)
from dpdm.data.published import (
    READERS,
    edition_of,
    read_digits,
)
from dpdm.errors import DpdmError, RequestError


def open_named(name: str, split: str) -> Collection:
    """Open "train" or "test" of a named data set.

    Raises RequestError where it is not on this machine, DpdmError where a file is damaged or not
    the published one.
    """
    entry = named(name)
    if name == "digits":
        return read_digits(entry, split)
    for folder in data_folders(name):
        if _present(name, folder):
            try:
                return READERS[name](entry, folder, split)
            except OSError as error:
                raise DpdmError(
                    f"{error.filename or folder}: cannot be read ({error.strerror or error})"
                ) from None
    places = " or ".join(str(folder) for folder in data_folders(name))
    raise RequestError(
        f"{name} is not in {places}: run `dpdm data fetch {name}`, or set DPDM_DATA to a folder "
        f"that has {name}/"
    )


def list_datasets() -> list[dict[str, Any]]:
    """What there is by name, one dictionary each: ``name``, ``title``, ``shape``, ``classes``,
    ``train`` and ``test`` (numbers of images), ``found`` (folder, "built in", or None),
    ``get`` (what to do where it is not found), ``note``. Opens no images.
    """
    return [_listed(entry) for entry in NAMED.values()]


def known_idx_title(files: IdxFiles) -> str | None:
    """The title of the published data set that these files are, whatever folder they lie in.

    So that the repackaged split goes by its own name when it is opened by path, too.
    """
    stem = standard_stem(files.images)
    found = digests(files.images, read_file(files.images))
    for entry in NAMED.values():
        edition = edition_of(stem, found, entry.editions)
        if edition is not None:
            return edition.title
    return None


def _listed(entry: Named) -> dict[str, Any]:
    places = [folder for folder in data_folders(entry.name) if _present(entry.name, folder)]
    title, train = entry.title, entry.train
    if places and entry.editions:
        labels = find_idx(places[0])["train"].labels
        if labels is not None:  # a small file, and enough to tell the editions apart
            content = read_file(labels)
            edition = edition_of(standard_stem(labels), digests(labels, content), entry.editions)
            title = edition.title if edition else f"{title} (unknown files)"
            train = len(parse_idx(str(labels), content))
    built_in = not entry.remotes
    return {
        "name": entry.name,
        "title": title,
        "shape": entry.shape,
        "classes": entry.classes,
        "train": train,
        "test": entry.test,
        "found": "built in" if built_in else str(places[0]) if places else None,
        "get": None
        if built_in or places
        else f"dpdm data fetch {entry.name}, or set DPDM_DATA to a folder with {entry.name}/",
        "note": entry.note,
    }


def _present(name: str, folder: Path) -> bool:
    if not folder.is_dir():
        return False
    if NAMED[name].editions:
        return set(find_idx(folder)) == {"train", "test"}
    if name == "cifar10":
        if (folder / CIFAR_ARCHIVE).is_file() or (folder / CIFAR_FOLDER).is_dir():
            return True
        if any(folder.glob("cifar-10-*py*")):
            raise RequestError(
                f"{folder}: only CIFAR-10's Python version is here, a pickle, which is not opened; "
                f"put {CIFAR_ARCHIVE} there, or run `dpdm data fetch cifar10`"
            )
        return False
    lists = all((folder / file).is_file() for file in (CELEBA_ATTRIBUTES, CELEBA_SPLITS))
    return lists and ((folder / CELEBA_ZIP).is_file() or (folder / CELEBA_FOLDER).is_dir())

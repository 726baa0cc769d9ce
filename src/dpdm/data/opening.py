"""``open_dataset``: from a data SPEC (INTERFACE.md) to a validated Dataset.

A SPEC is a name from ``list_datasets`` or a path, with ``@train`` (the default) or ``@test``
after it where there are two splits: a named set, a folder with the folders ``train`` and
``test``, IDX files (``t10k`` is the test split), parquet shards called ``train-...`` and
``test-...``. A name wins over a folder of that name, for which write ``./name``. What a folder
holds is told by its content, in this order: ``metadata.csv``, IDX files, parquet shards, folders
``train`` and ``test``, images.
"""

from __future__ import annotations

import difflib
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

from dpdm.data.catalogue import NAMED
from dpdm.data.classes import CLASSES_FILE, natural_key
from dpdm.data.collection import Collection, OnError, Prepared, Progress, prepare
from dpdm.data.dataset import Dataset
from dpdm.data.decode import EXTENSIONS, Preprocessing
from dpdm.data.formats.arrays import read_npz
from dpdm.data.formats.folder import METADATA, read_folder, visible_folders
from dpdm.data.formats.idx import find_idx, read_idx_split
from dpdm.data.formats.parquet import read_parquet
from dpdm.data.named import known_idx_title, open_named
from dpdm.data.paths import user_path
from dpdm.errors import DpdmError, RequestError, first_few

SPLITS = ("train", "test")
MAX_IMAGE_SIZE = 1024


class NoSplitError(RequestError):
    """A data set without the split that was asked for."""


_DARK = 64
"""A data set whose brightest pixel is below this is hardly as it was meant."""

_OTHER_SPLITS = frozenset({"val", "valid", "validation", "dev"})
_LIKE_SPLITS = {*SPLITS, *_OTHER_SPLITS, "training", "testing"}
_SHOWN = 10


def open_dataset(
    spec: str | os.PathLike[str],
    *,
    image_size: int | None = None,
    channels: int | None = None,
    on_error: OnError = "fail",
    public_size: int | None = None,
    progress: Progress | None = None,
) -> Dataset:
    """Open a data set into memory as uint8 (N, H, W, C).

    ``image_size``: pixels a side after a centre crop and an antialiased resize; ``channels``: 1
    grey, 2 grey and alpha, 3 RGB, 4 RGBA; both otherwise as the images are, which must then
    agree. ``on_error``: "fail" refuses a set with an unusable image, "skip" leaves such images
    out, each judged alone. ``public_size``: the declared number of images, or of groups where
    these are the unit; without it the exact number is treated as public. ``progress(done, total)``
    is called while image files are decoded.

    Raises RequestError for a request that cannot be met, DpdmError for a damaged file.
    """
    _check_public_size(public_size)
    prepared = _prepare(spec, image_size, channels, on_error, progress)
    return prepared.dataset(on_error, public_size)


def check_report(
    spec: str | os.PathLike[str],
    *,
    image_size: int | None = None,
    channels: int | None = None,
    on_error: OnError = "fail",
    public_size: int | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """What ``dpdm data check`` prints: a private view of a data set, also of one that is refused.

    Arguments as for ``open_dataset``. Keys: ``private`` (True) and ``notice``; ``name``;
    ``count`` of usable images; ``shape`` or None; ``classes``, each with ``name`` and ``count``;
    ``sizes`` before resizing, each with ``height``, ``width``, ``count``; ``groups``, with
    ``count``, ``min_images``, ``max_images``, or None; ``problems``, each with ``file`` and
    ``reason``; ``public_size`` and ``public_size_declared``; ``ready`` and ``error``: whether
    ``open_dataset`` takes it, or why not; ``warnings``, of what it takes and is hardly what was
    meant.
    """
    _check_public_size(public_size)
    prepared = _prepare(spec, image_size, channels, on_error, progress)
    report = _describe(prepared, public_size)
    try:
        found = prepared.dataset(on_error, public_size)
    except RequestError as error:
        return {**report, "ready": False, "error": str(error), "warnings": []}
    return {**report, "ready": True, "error": None, "warnings": list(_oddities(found, report))}


def _oddities(dataset: Dataset, report: dict[str, Any]) -> Iterator[str]:
    """What can be trained on and is hardly what was meant."""
    brightest = int(dataset.private_images.max())
    if brightest < _DARK:
        yield (
            f"no pixel is brighter than {brightest} of 255: values of fewer than 16 bits in files "
            "of 16, perhaps; spread them over the whole range before"
        )
    alpha = dataset.private_images[..., -1]
    if dataset.shape[2] in (2, 4) and alpha.min() == alpha.max():
        yield (
            f"of {dataset.shape[2]} channels the last one, how opaque a pixel is, is the same "
            f"everywhere: say data.channels={dataset.shape[2] - 1}"
        )
    if empty := [entry["name"] for entry in report["classes"] if not entry["count"]]:
        yield (
            f"no images of {', '.join(first_few([*map(repr, empty)], _SHOWN))}: what is drawn of "
            "such a class is a blend of the others; remove it, or draw without it"
        )
    if report["groups"] and not dataset.classes:
        yield (
            "images have groups and no classes: if the column says what an image shows, and not "
            "whose it is, call it label"
        )
    if len(splits := [name for name in dataset.classes if name.lower() in _LIKE_SPLITS]) > 1:
        yield (
            f"classes are called {', '.join(splits)}: if these are parts of the data, call them "
            "train and test, with nothing beside them"
        )
    lowered = Counter(name.lower() for name in dataset.classes)
    if alike := [name for name in dataset.classes if lowered[name.lower()] > 1]:
        yield (
            f"classes that differ in capitals alone: {', '.join(first_few(alike, _SHOWN))}; they "
            "are taken as different"
        )


def _describe(prepared: Prepared, public_size: int | None) -> dict[str, Any]:
    """The part of ``check_report`` that holds whether or not the set is ready."""
    labels, groups = prepared.labels, prepared.groups
    classes = prepared.collection.classes
    counts = [0] * len(classes)
    for label in labels.tolist() if labels is not None else ():
        if 0 <= label < len(counts):
            counts[label] += 1
    members = [0] * (int(groups.max()) + 1) if groups is not None and len(groups) else []
    for group in groups.tolist() if groups is not None else ():
        members[group] += 1
    shape = next(iter(prepared.shapes)) if len(prepared.shapes) == 1 else None
    return {
        "private": True,
        "notice": "A private view: counts, sizes and file names are exact and carry no guarantee. "
        "Keep this on the private side.",
        "name": prepared.collection.name,
        "count": len(prepared.kept),
        "shape": shape,
        "classes": [{"name": n, "count": c} for n, c in zip(classes, counts, strict=True)],
        "sizes": [
            {"height": height, "width": width, "count": count}
            for (height, width), count in sorted(prepared.sizes.items())
        ],
        "groups": {
            "count": len(members),
            "min_images": min(members),
            "max_images": max(members),
        }
        if members
        else None,
        "problems": [{"file": p.file, "reason": p.reason} for p in prepared.problems],
        "public_size": len(prepared.kept) if public_size is None else public_size,
        "public_size_declared": public_size is not None,
    }


def _prepare(
    spec: str | os.PathLike[str],
    image_size: int | None,
    channels: int | None,
    on_error: str,
    progress: Progress | None,
) -> Prepared:
    _check_number("data.image_size", image_size, 1, MAX_IMAGE_SIZE)
    _check_number("data.channels", channels, 1, 4)
    if on_error not in get_args(OnError):
        raise RequestError(f"data.on_error is {on_error!r}; it must be fail or skip")
    collection = find(os.fspath(spec))
    size = collection.default_size if image_size is None else image_size
    return prepare(collection, Preprocessing(size, channels, collection.crop), progress)


def _check_public_size(value: int | None) -> None:
    _check_number("data.public_size", value, 1, None)


def _check_number(key: str, value: int | None, low: int, high: int | None) -> None:
    if value is None:
        return
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or value < low or (high is not None and value > high):
        wanted = f"from {low} to {high}" if high is not None else f"of at least {low}"
        raise RequestError(f"{key} is {value!r}; it must be a whole number {wanted}")


def find(spec: str) -> Collection:
    """Find what a SPEC names and list its images; decodes none."""
    try:
        name, split = split_spec(spec)
        path = user_path(name)
        is_folder, is_there = path.is_dir(), path.exists()
    except OSError as error:
        raise RequestError(f"{spec[:200]!r} is no path ({error.strerror or error})") from None
    if not name.strip():
        raise RequestError(f"the data set is not named; give a name ({', '.join(NAMED)}) or a path")
    if name in NAMED:
        return open_named(name, split or "train")
    if is_folder:
        try:
            return _open_folder(path, path.resolve().name or "data", split)
        except OSError as error:
            raise DpdmError(f"{path}: cannot be read ({error.strerror or error})") from None
    if not is_there:
        raise RequestError(_not_there(name))
    if split is not None:
        raise NoSplitError(f"{path} is one file without splits; leave out @{split}")
    if path.suffix.lower() == ".npz":
        return read_npz(path)
    if path.suffix.lower() == ".parquet":
        return read_parquet(path.stem, [path])
    raise RequestError(
        f"{path}: not a data set; give a folder of images, a folder of IDX files, an .npz or a "
        ".parquet file"
    )


def split_spec(spec: str) -> tuple[str, str | None]:
    """A SPEC's name or path and its split or None; a path that exists is taken whole."""
    name, mark, split = spec.rpartition("@")
    if not mark or user_path(spec).exists():
        return spec, None
    if split in SPLITS:
        return name, split
    if name in NAMED:
        raise RequestError(f"{name} has no split {split!r}; write {name}@train or {name}@test")
    return spec, None


def _open_folder(path: Path, name: str, split: str | None) -> Collection:
    if (path / METADATA).is_file():
        return _whole(path, name, split)
    idx = find_idx(path)
    if idx:
        files = idx.get(split or "train")
        if files is None:
            raise NoSplitError(
                f"{path}: it has no {split or 'train'} images, only {next(iter(idx))}; "
                f"write {path}@{next(iter(idx))}"
            )
        title = known_idx_title(files)
        return read_idx_split(_titled(title or name, split), files)
    shards = sorted(path.glob("*.parquet"), key=lambda file: natural_key(file.name))
    if shards:
        return read_parquet(_titled(name, split), _shards_of(path, shards, split))
    inside = visible_folders(path)
    if _is_split(path, inside):
        chosen = split or "train"
        if chosen not in inside:
            raise NoSplitError(f"{path}: it has no folder {chosen!r}")
        return _open_folder(path / chosen, _titled(name, chosen), None)
    archives = [file.name for file in path.iterdir() if file.suffix.lower() == ".npz"]
    if archives and not inside and not _has_images(path):
        raise RequestError(f"{path}: no images; did you mean {path / min(archives)}?")
    return _whole(path, name, split)


def _whole(path: Path, name: str, split: str | None) -> Collection:
    if split is not None:
        raise NoSplitError(
            f"{path}: it has no splits (folders train and test, or IDX files); leave out @{split}"
        )
    return read_folder(name, path)


def _is_split(path: Path, inside: list[str]) -> bool:
    """Whether the folders are splits, rather than classes that happen to be called so."""
    if not set(SPLITS) & set(inside) or not set(inside) <= {*SPLITS, *_OTHER_SPLITS}:
        return False
    return not _has_images(path) and not (path / CLASSES_FILE).is_file()


def _has_images(path: Path) -> bool:
    return any(entry.suffix.lower() in EXTENSIONS for entry in path.iterdir())


def _shards_of(path: Path, shards: list[Path], split: str | None) -> list[Path]:
    named = {part: [s for s in shards if s.name.startswith(f"{part}-")] for part in SPLITS}
    if split is None and not any(named.values()):
        return shards
    chosen = named[split or "train"]
    if not chosen:
        raise NoSplitError(f"{path}: it has no shards called {split or 'train'}-*.parquet")
    return chosen


def _titled(name: str, split: str | None) -> str:
    return name if split in (None, "train") else f"{name}, {split}"


def _not_there(name: str) -> str:
    near = difflib.get_close_matches(name.lower(), NAMED, n=1)
    hint = f"did you mean {near[0]}? " if near else ""
    return (
        f"no data set or path is called {name!r}; {hint}the names are {', '.join(NAMED)}, "
        "and a path is a folder, an .npz or a .parquet file"
    )

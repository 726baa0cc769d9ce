"""Writers of the layouts that ``open_dataset`` reads, so that what was sampled opens again.

======================  ============================================================================
path                    content
======================  ============================================================================
``*.npz``               ``images`` uint8 (N, H, W, C), ``labels`` int64 (N,), ``classes`` (K,) text
``*.parquet``           Hugging Face image layout: PNG bytes, Image and ClassLabel in the metadata
anything else           a folder of PNGs: one folder per class and ``classes.txt``, or flat
======================  ============================================================================

A file or folder appears under its name only once it is whole; nothing is overwritten.
"""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dpdm.data.classes import CLASSES_FILE, class_folders
from dpdm.data.dataset import Dataset, Images, Integers
from dpdm.data.formats.parquet import pyarrow_parquet
from dpdm.data.paths import user_path
from dpdm.errors import DpdmError, RequestError

_BATCH = 1024
_OTHER_FILES = frozenset(
    {".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".npy", ".csv", ".json"}
    | {".pt", ".pth", ".h5", ".zip", ".tar", ".gz", ".safetensors"}
)


def write_samples(
    path: str | os.PathLike[str],
    images: NDArray[np.uint8],
    labels: NDArray[np.int64] | None,
    classes: Sequence[str],
) -> None:
    """Write images (N, H, W, C) and labels (N,), or None and no classes, as the path says.

    Parent folders are made. Raises RequestError where the path is taken, its ending is of no
    layout, or images, labels and classes contradict each other; DpdmError where it cannot be
    written.
    """
    target = user_path(path)
    checked = Dataset(  # one set of rules for what is read and what is written
        name=str(target),
        shape=tuple(images.shape[1:]) if images.ndim == 4 else (0, 0, 0),
        classes=tuple(classes),
        public_size=max(1, len(images)),
        public_size_declared=True,
        private_images=images,
        private_labels=None if labels is None else _whole_numbers(target, labels),
    )
    write = _writer(path)
    _check_free(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _temporary(target) as temporary:
            write(temporary, checked.private_images, checked.private_labels, checked.classes)
            if target.is_dir():  # an empty one
                target.rmdir()
            temporary.rename(target)
    except OSError as error:
        raise DpdmError(
            f"{target}: cannot be written ({error.strerror or error}); nothing was left there"
        ) from None


def _whole_numbers(target: Path, labels: NDArray[Any]) -> Integers:
    if labels.dtype.kind not in "iu":
        raise RequestError(f"{target}: labels are {labels.dtype}; they must be whole numbers")
    return labels.astype(np.int64, copy=False)


_Writer = Callable[[Path, Images, Integers | None, tuple[str, ...]], None]


def _writer(path: str | os.PathLike[str]) -> _Writer:
    target = user_path(path)
    ending = target.suffix.lower()
    if os.fspath(path).endswith(("/", os.sep)):
        return _write_folder
    if ending == ".npz":
        return _write_npz
    if ending == ".parquet":
        pyarrow_parquet(str(target))
        return _write_parquet
    if ending in _OTHER_FILES:
        raise RequestError(
            f"{target}: {ending} is not written; give FILE.npz, FILE.parquet or a folder, DIR/"
        )
    return _write_folder


def check_writable(path: str | os.PathLike[str], classes: Sequence[str]) -> None:
    """Refuses what ``write_samples`` would, before long work is done in vain.

    Raises:
        RequestError: an ending of no layout, classes that would share a folder, a path that is
            taken.
        DpdmError: the nearest folder that exists cannot be written.
    """
    target = user_path(path)
    write = _writer(path)
    if write is _write_folder:
        try:
            class_folders(str(target), classes)
        except RequestError as error:
            raise RequestError(f"{error}; FILE.npz and FILE.parquet take any names") from None
    _check_free(target)
    folder = next(parent for parent in target.absolute().parents if parent.exists())
    if not (folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)):
        raise DpdmError(f"{target}: cannot be written, {folder} is no folder that may be written")


def _check_free(target: Path) -> None:
    """Refuses a path where something lies already, so that long work is not done in vain.

    Raises:
        RequestError: a file, or a folder that is not empty.
        DpdmError: the folder cannot be read.
    """
    try:
        taken = any(target.iterdir()) if target.is_dir() else os.path.lexists(target)
    except OSError as error:
        raise DpdmError(f"{target}: cannot be read ({error.strerror or error})") from None
    if taken:
        raise RequestError(f"{target} is there already; give another path, or remove it")


@contextmanager
def _temporary(target: Path) -> Iterator[Path]:
    """A hidden path beside the target, removed if it is still there at the end."""
    path = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        yield path
    finally:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def _write_npz(
    path: Path, images: Images, labels: Integers | None, classes: tuple[str, ...]
) -> None:
    arrays: dict[str, Any] = {"images": images}
    if labels is not None:
        arrays |= {"labels": labels, "classes": np.asarray(classes, dtype=np.str_)}
    with path.open("wb") as file:
        np.savez_compressed(file, **arrays)
        file.flush()
        os.fsync(file.fileno())


def _write_folder(
    path: Path, images: Images, labels: Integers | None, classes: tuple[str, ...]
) -> None:
    folders = [""] if labels is None else list(class_folders(str(path), classes))
    for folder in folders:
        (path / folder).mkdir(parents=True)
    if labels is not None:
        (path / CLASSES_FILE).write_text("".join(f"{n}\n" for n in classes), encoding="utf-8")
    digits = max(5, len(str(len(images) - 1)))
    for index, pixels in enumerate(images):
        folder = folders[0 if labels is None else int(labels[index])]
        (path / folder / f"{index:0{digits}d}.png").write_bytes(_png(pixels))


def _write_parquet(
    path: Path, images: Images, labels: Integers | None, classes: tuple[str, ...]
) -> None:
    import pyarrow as pa

    features: dict[str, Any] = {"image": {"_type": "Image"}}
    fields = [("image", pa.struct([("bytes", pa.binary()), ("path", pa.string())]))]
    if labels is not None:
        features["label"] = {"names": list(classes), "_type": "ClassLabel"}
        fields.append(("label", pa.int64()))
    metadata = {"huggingface": json.dumps({"info": {"features": features}})}
    schema = pa.schema(fields, metadata=metadata)
    with pyarrow_parquet(str(path)).ParquetWriter(path, schema) as writer:
        for start in range(0, len(images), _BATCH):
            stop = min(start + _BATCH, len(images))
            columns: dict[str, Any] = {
                "image": [
                    {"bytes": _png(images[i]), "path": f"{i:05d}.png"} for i in range(start, stop)
                ]
            }
            if labels is not None:
                columns["label"] = labels[start:stop]
            writer.write_table(pa.table(columns, schema=schema))


def _png(pixels: Images) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels[:, :, 0] if pixels.shape[2] == 1 else pixels).save(file, "PNG")
    return file.getvalue()

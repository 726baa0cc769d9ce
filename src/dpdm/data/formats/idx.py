"""Reader of IDX files, the format of MNIST (http://yann.lecun.com/exdb/mnist/), gzip or plain.

A file is two zero bytes, a type byte (8: unsigned byte), the number of dimensions, one big-endian
uint32 per dimension, then the values.
"""

from __future__ import annotations

import gzip
import hashlib
import math
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dpdm.data.classes import declared_classes, labels_from_numbers
from dpdm.data.collection import Collection
from dpdm.data.dataset import Images, Integers
from dpdm.errors import DpdmError, RequestError

_MOST_DIMENSIONS = 4
_HEADER = 4 + 4 * _MOST_DIMENSIONS
_PIECE = 2**24

_NAME = re.compile(r"(train|t10k|test)-(images|labels)[-.]idx[134]-ubyte(\.gz)?")


@dataclass(frozen=True)
class IdxFiles:
    """The image file of one split and its label file, where there is one."""

    images: Path
    labels: Path | None


def find_idx(folder: Path) -> dict[str, IdxFiles]:
    """Split name ("train", "test") to its files; empty where the folder holds no IDX images.

    Names are the standard ones, ``train-images-idx3-ubyte`` and ``t10k-labels-idx1-ubyte``, with or
    without ``.gz`` (plain is preferred where both are there), ``.idx3`` or ``test-`` also accepted.
    """
    found: dict[tuple[str, str], Path] = {}
    for path in sorted(folder.iterdir(), reverse=True):  # so that plain overwrites .gz
        match = _NAME.fullmatch(path.name)
        if match and path.is_file():
            split = "train" if match[1] == "train" else "test"
            found[split, match[2]] = path
    return {
        split: IdxFiles(found[split, "images"], found.get((split, "labels")))
        for split in ("train", "test")
        if (split, "images") in found
    }


def standard_stem(path: Path) -> str:
    """The standard name of an IDX file, for the variants that are accepted."""
    name = path.name.removesuffix(".gz").replace(".idx", "-idx")
    return "t10k" + name.removeprefix("test") if name.startswith("test") else name


def read_idx_split(name: str, files: IdxFiles) -> Collection:
    """Images and labels of one split, named by ``classes.txt`` beside them, else by number."""
    images = as_images(str(files.images), parse_idx(str(files.images), read_file(files.images)))
    if files.labels is None:
        return Collection(name, images)
    where = str(files.labels)
    labels = as_labels(where, parse_idx(where, read_file(files.labels)), len(images))
    declared = declared_classes(files.images.parent)
    numbers, names = labels_from_numbers(where, labels, declared)
    return Collection(name, images, numbers, names)


def as_images(where: str, values: NDArray[np.uint8]) -> Images:
    """Check that IDX values are images: (N, H, W) or (N, H, W, C); returns (N, H, W, C)."""
    if values.ndim == 3:
        return values[..., None]
    if values.ndim == 4 and 1 <= values.shape[3] <= 4:
        return values
    raise RequestError(
        f"{where}: values have shape {values.shape}; images are (N, H, W) or (N, H, W, C)"
    )


def as_labels(where: str, values: NDArray[np.uint8], count: int) -> Integers:
    """Check that IDX values are one label for each of ``count`` images; returns int64 (N,)."""
    if values.shape != (count,):
        raise RequestError(f"{where}: labels have shape {values.shape} for {count} images")
    return values.astype(np.int64)


def read_file(path: Path) -> bytes:
    """A file's bytes, unpacked where its name ends in .gz; raises DpdmError where it is damaged.

    Of a file that unpacks to more than its header says, what is more is left out but for a byte.
    """
    try:
        if path.suffix != ".gz":
            return path.read_bytes()
        with gzip.open(path) as file:
            head = file.read(_HEADER)
            return head + _read(file, max(0, _declared_length(head) - len(head)) + 1)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DpdmError(f"{path}: damaged gzip file ({error}); get it again") from None
    except OSError as error:
        raise DpdmError(f"{path}: cannot be read ({error.strerror or error})") from None


def _read(file: gzip.GzipFile, most: int) -> bytes:
    """What is left of a file, up to ``most`` bytes; a header may say more than memory holds."""
    parts = list[bytes]()
    while most > 0 and (part := file.read(min(most, _PIECE))):
        parts.append(part)
        most -= len(part)
    return b"".join(parts)


def parse_idx(where: str, data: bytes) -> NDArray[np.uint8]:
    """The array in an IDX file of unsigned bytes; raises DpdmError for any other bytes."""
    shape = _declared_shape(data)
    if shape is None:
        raise DpdmError(f"{where}: not an IDX file of unsigned bytes; get it again")
    rank, expected = data[3], math.prod(shape)
    values = np.frombuffer(data, np.uint8, offset=min(4 + 4 * rank, len(data)))
    if len(shape) != rank or len(values) != expected:
        found = "more" if len(values) > expected else len(values)
        raise DpdmError(
            f"{where}: {found} bytes of values where the header {shape} says {expected}; "
            "the file is damaged, get it again"
        )
    return values.reshape(shape)


def _declared_shape(data: bytes) -> tuple[int, ...] | None:
    """The shape in a header, shorter where the header is cut off; None where it is none."""
    if len(data) < 4 or data[:3] != b"\0\0\x08" or not 1 <= data[3] <= _MOST_DIMENSIONS:
        return None
    count = min(data[3], len(data) // 4 - 1)
    return tuple(int(n) for n in np.frombuffer(data, ">u4", count=count, offset=4))


def _declared_length(head: bytes) -> int:
    """Bytes of a file, header and all, by its header; 0 where it is none."""
    shape = _declared_shape(head)
    return 0 if shape is None else 4 + 4 * len(shape) + math.prod(shape)


def digests(path: Path, data: bytes) -> frozenset[str]:
    """MD5 and SHA-256 of a file as it lies and of ``data``, its unpacked content, as "md5:...".

    Archives of the same content differ in gzip's header and level, so either may be the known one.
    """
    found = set[str]()
    for content in (path.read_bytes(), data):
        found.add("md5:" + hashlib.md5(content, usedforsecurity=False).hexdigest())
        found.add("sha256:" + hashlib.sha256(content).hexdigest())
    return frozenset(found)

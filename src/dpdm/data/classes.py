"""Class names and their order: the same for the same images, whichever format they come in.

Names come, in this order of precedence, from ``classes.txt`` (one name a line, in label order) in
a folder, from the format itself (an npz's ``classes``, a parquet's ClassLabel), or from the
labels: text labels and class folders in natural order ("2" before "10"), whole numbers 0..K-1 as
"0".."K-1".
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpdm.data.dataset import Integers, check_class_names
from dpdm.errors import RequestError

CLASSES_FILE = "classes.txt"
MAX_CLASSES = 10_000
LONGEST_NAME = 1_000
_SHOWN = 20

_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


def natural_key(text: str) -> tuple[tuple[tuple[int, int, str], ...], str]:
    """Sort key: digits as numbers, letters without regard to case; the text breaks ties."""
    parts = re.split(r"(\d+)", text)
    key = tuple(
        (0, int(part), "") if part.isdecimal() else (1, 0, part.casefold())
        for part in parts
        if part
    )
    return key, text


def folder_name(class_name: str) -> str:
    """The folder that holds a class: its name, with what file systems refuse replaced by ``_``."""
    name = "".join(c if c.isalnum() or c in " -_.,+&'()@#" else "_" for c in class_name)
    name = name.strip(" ").rstrip(".")
    if not name or name.startswith(".") or _RESERVED.fullmatch(name):
        name = "_" + name
    return name


def class_folders(where: str, classes: Sequence[str]) -> dict[str, int]:
    """Folder name to label; raises RequestError where two classes would share a folder."""
    folders: dict[str, int] = {}
    taken: dict[str, str] = {}
    for label, name in enumerate(classes):
        folder = folder_name(name)
        other = taken.setdefault(folder.casefold(), name)
        if other != name:
            raise RequestError(
                f"{where}: classes {other!r} and {name!r} would share the folder {folder!r}; "
                "rename one"
            )
        folders[folder] = label
    return folders


def declared_classes(folder: Path) -> tuple[str, ...] | None:
    """The names in a folder's ``classes.txt``, or None where there is no such file."""
    path = folder / CLASSES_FILE
    if not path.is_file():
        return None
    try:
        names = tuple(path.read_text(encoding="utf-8-sig").splitlines())
    except UnicodeDecodeError:
        raise RequestError(f"{path}: not UTF-8 text; save it as UTF-8") from None
    check_class_names(str(path), names)
    if not names:
        raise RequestError(f"{path}: no class names; give one a line, or remove the file")
    return names


def labels_from_numbers(
    where: str, numbers: NDArray[Any], declared: tuple[str, ...] | None
) -> tuple[Integers, tuple[str, ...]]:
    """Whole-number labels (N,) and their class names, "0".."K-1" where none are declared."""
    if numbers.dtype.kind not in "iu":
        raise RequestError(f"{where}: labels are {numbers.dtype}; they must be whole numbers")
    if numbers.size and numbers.dtype.kind == "u" and int(numbers.max()) > np.iinfo(np.int64).max:
        raise RequestError(f"{where}: label {int(numbers.max())} is too large")
    labels = numbers.astype(np.int64)
    if declared is not None:
        return labels, declared
    low, high = (int(labels.min()), int(labels.max())) if labels.size else (0, 0)
    if low < 0:
        raise RequestError(f"{where}: label {low} is negative; labels count from 0")
    if high >= MAX_CLASSES:
        raise RequestError(f"{where}: label {high} is too large; number the classes 0 to K-1")
    return labels, tuple(str(label) for label in range(high + 1))


def labels_from_names(
    where: str,
    names: Sequence[str],
    declared: tuple[str, ...] | None,
    source: str = CLASSES_FILE,
) -> tuple[Integers, tuple[str, ...]]:
    """Text labels (N,) to numbers; ``source`` is where names were declared.

    Raises:
        RequestError: a name that is not declared, or too long to be one.
    """
    for name in names:
        if len(name) > LONGEST_NAME:
            raise RequestError(
                f"{where}: a label of {len(name)} characters, {name[:_SHOWN]!r}...; a class name "
                f"has {LONGEST_NAME} at most"
            )
    classes = tuple(sorted(set(names), key=natural_key)) if declared is None else declared
    number = {name: label for label, name in enumerate(classes)}
    for name in names:
        if name not in number:
            raise RequestError(
                f"{where}: label {name!r} is not among the {len(classes)} names in {source}; "
                "add it there, or correct the label"
            )
    return np.asarray([number[name] for name in names], dtype=np.int64), classes

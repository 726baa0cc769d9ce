"""Reader of image folders: one folder per class, or flat, with ``metadata.csv`` or without labels.

- ``metadata.csv`` decides where it is there: columns ``file_name`` (a path inside the folder),
  ``label`` (optional), and whose image it is: the column ``group``, or else the only one left.
- Folders otherwise: each is a class, its images at any depth. ``classes.txt`` may fix their order.
- Images alone are unlabelled.

Images are in the natural order of their file names, then of their folders, so that a folder that
``write_samples`` numbered comes back in its order; with ``metadata.csv`` in the order of its rows.
Hidden files, texts and tables are passed over; any other file that is no image is a Problem.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from dpdm.data.classes import (
    CLASSES_FILE,
    class_folders,
    declared_classes,
    labels_from_names,
    natural_key,
)
from dpdm.data.collection import Collection, Encoded
from dpdm.data.dataset import Integers, Problem
from dpdm.data.decode import EXTENSIONS
from dpdm.errors import DpdmError, RequestError

METADATA = "metadata.csv"
LABEL_COLUMN, GROUP_COLUMN = "label", "group"

_BESIDE = frozenset({".txt", ".csv", ".tsv", ".md", ".json", ".yaml", ".yml", ".html", ".xml"})
_LITTER = frozenset({"thumbs.db", "desktop.ini", "license", "readme"})


def read_folder(name: str, folder: Path) -> Collection:
    """List a folder of images in whichever of the three layouts it is; reads no pixels."""
    try:
        if (folder / METADATA).is_file():
            return _with_metadata(name, folder)
        if (folder / "metadata.jsonl").is_file():
            raise RequestError(
                f"{folder}: metadata.jsonl is not read; write its file_name and label to {METADATA}"
            )
        subfolders = visible_folders(folder)
        if subfolders:
            return _class_folders(name, folder, subfolders)
        files, problems = _listing(folder)
        _check_any(folder, files, problems)
        return Collection(name, [_encoded(folder, path) for path in files], problems=problems)
    except OSError as error:
        raise DpdmError(f"{folder}: cannot be read ({error.strerror or error})") from None


def visible_folders(folder: Path) -> list[str]:
    """Names of the folders inside, hidden ones left out, in natural order."""
    names = [entry.name for entry in folder.iterdir() if entry.is_dir() and _visible(entry.name)]
    return sorted(names, key=natural_key)


def _visible(name: str) -> bool:
    return not name.startswith(".") and name not in ("__MACOSX", "__pycache__")


def _encoded(folder: Path, file: PurePosixPath) -> Encoded:
    return Encoded(str(file), (folder / file).read_bytes)


def _files(folder: Path, inside: PurePosixPath) -> Iterator[PurePosixPath]:
    with os.scandir(folder / inside) as entries:
        for entry in entries:
            if not _visible(entry.name):
                continue
            # A link to a folder may lead back here: it is reported, not entered.
            if entry.is_dir(follow_symlinks=False):
                yield from _files(folder, inside / entry.name)
            else:
                yield inside / entry.name


def _listing(
    folder: Path, inside: PurePosixPath | None = None
) -> tuple[list[PurePosixPath], tuple[Problem, ...]]:
    """Images below a folder in natural order of file name, and what else lies among them."""
    images, problems = list[PurePosixPath](), list[Problem]()
    for file in _files(folder, inside or PurePosixPath()):
        extension = file.suffix.lower()
        if extension in EXTENSIONS:
            images.append(file)
        elif extension not in _BESIDE and file.name.lower() not in _LITTER:
            problems.append(
                Problem(str(file), "not an image that is read: PNG, JPEG, WebP, BMP or TIFF")
            )
    images.sort(key=_file_key)
    problems.sort(key=lambda problem: natural_key(problem.file))
    return images, tuple(problems)


def _check_any(folder: Path, images: Sequence[PurePosixPath], problems: Sequence[Problem]) -> None:
    if problems and not images:
        raise RequestError(
            f"{folder}: no PNG, JPEG, WebP, BMP or TIFF images in it, only other files "
            f"({problems[0].file}); give a folder of images"
        )


def _file_key(file: PurePosixPath) -> tuple[object, ...]:
    return natural_key(file.name), natural_key(str(file.parent))


def _class_folders(name: str, folder: Path, subfolders: Sequence[str]) -> Collection:
    loose = [
        entry.name
        for entry in folder.iterdir()
        if entry.suffix.lower() in EXTENSIONS and _visible(entry.name) and not entry.is_dir()
    ]
    if loose:
        raise RequestError(
            f"{folder}: images ({min(loose)}) lie beside folders ({subfolders[0]}); move each "
            f"image into its class folder, or write {METADATA}"
        )
    declared = declared_classes(folder)
    classes = tuple(subfolders) if declared is None else declared
    number = {name: label for label, name in enumerate(classes)}
    if any(subfolder not in number for subfolder in subfolders):  # as write_samples calls them
        number = class_folders(str(folder / CLASSES_FILE), classes) | number
    images, problems = list[PurePosixPath](), list[Problem]()
    for subfolder in subfolders:
        if subfolder not in number:
            raise RequestError(
                f"{folder}: folder {subfolder!r} is no class in {CLASSES_FILE}; add it there"
            )
        found, bad = _listing(folder, PurePosixPath(subfolder))
        images.extend(found)
        problems.extend(bad)
    _check_any(folder, images, problems)
    images.sort(key=_file_key)
    labels = np.asarray([number[file.parts[0]] for file in images], dtype=np.int64)
    encoded = [_encoded(folder, file) for file in images]
    return Collection(name, encoded, labels, classes, problems=tuple(problems))


def _with_metadata(name: str, folder: Path) -> Collection:
    table = folder / METADATA
    rows, group_column, labelled = _rows(table)
    images, labels, groups = list[Encoded](), list[str](), list[str]()
    problems, listed = list[Problem](), set[PurePosixPath]()
    for line, row in rows:
        given = row["file_name"]
        file = PurePosixPath(given.replace("\\", "/"))
        if file in listed:
            raise RequestError(f"{table}: line {line} lists {given!r} a second time; remove one")
        listed.add(file)
        reason = _row_problem(folder, file, row, labelled, group_column)
        if reason is not None:
            problems.append(Problem(given or f"{METADATA}, line {line}", reason))
            continue
        images.append(_encoded(folder, file))
        labels.append(row[LABEL_COLUMN] if labelled else "")
        groups.append(row[group_column] if group_column else "")
    found, others = _listing(folder)
    # A link to a folder is not entered, and not in the way of the rows that lead through it.
    listed.update(parent for file in tuple(listed) for parent in file.parents)
    problems.extend(Problem(str(f), f"not listed in {METADATA}") for f in found if f not in listed)
    problems.extend(other for other in others if PurePosixPath(other.file) not in listed)
    numbers: Integers | None = None
    classes: tuple[str, ...] = ()
    if labelled:
        numbers, classes = labels_from_names(str(table), labels, declared_classes(folder))
    return Collection(
        name,
        images,
        numbers,
        classes,
        groups if group_column else None,
        problems=tuple(problems),
    )


def _row_problem(
    folder: Path,
    file: PurePosixPath,
    row: dict[str, str],
    labelled: bool,
    group_column: str | None,
) -> str | None:
    if not file.name:
        return f"no file_name in {METADATA}"
    if file.is_absolute() or ".." in file.parts:
        return "points outside the folder"
    if not (folder / file).is_file():
        return f"listed in {METADATA}, not in the folder"
    if labelled and not row[LABEL_COLUMN]:
        return f"no label in {METADATA}"
    if group_column is not None and not row[group_column]:
        return f"no {group_column} in {METADATA}"
    return None


def _rows(table: Path) -> tuple[list[tuple[int, dict[str, str]]], str | None, bool]:
    """Rows with their line numbers, the group column, and whether there is a label column."""
    try:
        with table.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, skipinitialspace=True, strict=True)
            names = [_known((name or "").strip()) for name in reader.fieldnames or ()]
            reader.fieldnames = names
            # A column without a name, of a trailing comma or a table's index, says nothing.
            group_column = _group_column(table, [name for name in names if name])
            rows = list[tuple[int, dict[str, str]]]()
            for row in reader:
                if None in row or None in row.values():
                    raise RequestError(
                        f"{table}: line {reader.line_num} does not have {len(names)} columns"
                    )
                rows.append((reader.line_num, {k: v.strip() for k, v in row.items()}))
    except (csv.Error, UnicodeDecodeError) as error:
        raise RequestError(f"{table}: not a UTF-8 comma-separated table ({error})") from None
    return rows, group_column, LABEL_COLUMN in names


def _known(column: str) -> str:
    """A column's name; ``Label`` is ``label``."""
    known = ("file_name", LABEL_COLUMN, GROUP_COLUMN)
    return column.lower() if column.lower() in known else column


def _group_column(table: Path, names: Sequence[str]) -> str | None:
    shown = ", ".join(names)
    if "file_name" not in names:
        raise RequestError(f"{table}: no column file_name; its columns are {shown or 'none'}")
    if len(set(names)) < len(names):
        raise RequestError(f"{table}: a column appears twice ({shown}); name each once")
    rest = [name for name in names if name not in ("file_name", LABEL_COLUMN)]
    if GROUP_COLUMN in rest:
        return GROUP_COLUMN
    if len(rest) > 1:
        raise RequestError(
            f"{table}: which of the columns {', '.join(rest)} says whose image it is? "
            f"Call that one {GROUP_COLUMN!r}, or keep only one"
        )
    return rest[0] if rest else None

"""Reader of ``.parquet`` files as Hugging Face ``datasets`` writes images.

A column ``struct<bytes: binary, path: string>``, labels as whole numbers with their names in the
schema's ``huggingface`` metadata (info, features, label: _type ClassLabel, names).

The image column is the one Image feature, else the one struct with ``bytes``, else ``image``; the
label column is ``label``, else the one ClassLabel feature, else ``labels``; a column called
``group`` says whose image it is. Other columns are not read. A folder of shards is their rows in
natural order of the files' names.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from dpdm.data.classes import labels_from_names, labels_from_numbers
from dpdm.data.collection import Collection, Encoded
from dpdm.data.dataset import Integers, Problem
from dpdm.data.formats.folder import GROUP_COLUMN
from dpdm.errors import DpdmError, RequestError

_BINARY = r"(large_)?binary(_view)?|fixed_size_binary\[\d+\]"
_BYTES = re.compile(rf"{_BINARY}|struct<(.*, )?bytes: ({_BINARY})( not null)?(, .*)?>")


def pyarrow_parquet(purpose: str) -> ModuleType:
    """The optional module ``pyarrow.parquet``; raises RequestError saying how to install it."""
    try:
        import pyarrow.parquet
    except ImportError:
        raise RequestError(
            f"{purpose}: parquet files need pyarrow; pip install 'dpdm[parquet]'"
        ) from None
    module: ModuleType = pyarrow.parquet
    return module


@dataclass(frozen=True)
class _Columns:
    image: str
    image_is_struct: bool
    label: str | None
    names: tuple[str, ...] | None
    group: str | None


def read_parquet(name: str, paths: Sequence[Path]) -> Collection:
    """Read the rows of files of one schema; raises RequestError where they hold no images."""
    parquet = pyarrow_parquet(str(paths[0]))
    shards = [_read_shard(parquet, path) for path in paths]
    columns = shards[0].columns
    for path, shard in zip(paths, shards, strict=True):
        if shard.columns != columns:
            raise RequestError(
                f"{path}: its columns or class names differ from those of {paths[0].name}"
            )
    labels = [label for shard in shards for label in shard.labels]
    numbers: Integers | None = None
    classes: tuple[str, ...] = ()
    if columns.label is not None:
        where = f"{paths[0]} (column {columns.label!r})"
        if len({type(label) for label in labels}) > 1:
            raise RequestError(f"{where}: numbers in one file and text in another; write one kind")
        if labels and isinstance(labels[0], str):
            numbers, classes = labels_from_names(
                where, labels, columns.names, "the schema's ClassLabel feature"
            )
        else:
            numbers, classes = labels_from_numbers(where, _int64(where, labels), columns.names)
    groups = [group for shard in shards for group in shard.groups] if columns.group else None
    return Collection(
        name,
        [image for shard in shards for image in shard.images],
        numbers,
        classes,
        groups,
        problems=tuple(problem for shard in shards for problem in shard.problems),
    )


def _int64(where: str, labels: list[int]) -> Integers:
    try:
        return np.asarray(labels, dtype=np.int64)
    except OverflowError:
        raise RequestError(
            f"{where}: label {max(labels)} is no class number; classes count from 0"
        ) from None


@dataclass(frozen=True)
class _Shard:
    columns: _Columns
    images: list[Encoded]
    labels: list[Any]
    groups: list[str]
    problems: list[Problem]


def _read_shard(parquet: ModuleType, path: Path) -> _Shard:
    try:
        with parquet.ParquetFile(path, memory_map=True) as file:
            shard = _Shard(_columns(path, file.schema_arrow), [], [], [], [])
            for row, (data, label, group) in enumerate(_rows(file, shard.columns)):
                file_name = f"{path.name}, row {row}"
                reason = _problem(shard.columns, data, label, group)
                if reason is not None:
                    shard.problems.append(Problem(file_name, reason))
                    continue
                shard.images.append(Encoded(file_name, partial(bytes, data)))
                shard.labels.append(label)
                shard.groups.append(str(group))
            return shard
    except RequestError:
        raise
    # What pyarrow raises derives from these; of what it cannot read, from the last.
    except (OSError, ValueError, NotImplementedError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DpdmError(f"{path}: not a readable parquet file ({reason})") from None


def _columns(path: Path, schema: Any) -> _Columns:
    features = _features(schema)
    image = _image_column(path, schema, features)
    label = _label_column(path, schema, features)
    names = None
    if label is not None and features.get(label, {}).get("_type") == "ClassLabel":
        given = features[label].get("names")
        names = tuple(str(name) for name in given) if given else None
    group = GROUP_COLUMN if GROUP_COLUMN in schema.names else None
    if group is not None:
        _check_type(path, schema, group)
    kind = _kind(path, schema, image)
    if not _BYTES.fullmatch(kind):
        raise RequestError(
            f"{path}: column {image!r} is {kind}; images are binary, or a struct with binary "
            "'bytes'"
        )
    return _Columns(image, kind.startswith("struct"), label, names, group)


def _kind(path: Path, schema: Any, column: str) -> str:
    """The type of a column; raises RequestError where there are several of the name."""
    if schema.names.count(column) > 1:
        raise RequestError(f"{path}: column {column!r} appears twice; name each once")
    return str(schema.field(column).type)


def _features(schema: Any) -> Mapping[str, Mapping[str, Any]]:
    metadata = (schema.metadata or {}).get(b"huggingface")
    try:
        features = json.loads(metadata)["info"]["features"] if metadata else {}
    except (ValueError, KeyError, TypeError):
        return {}
    if not isinstance(features, dict):
        return {}
    return {key: value for key, value in features.items() if isinstance(value, dict)}


def _image_column(path: Path, schema: Any, features: Mapping[str, Mapping[str, Any]]) -> str:
    """The column of image bytes.

    Raises:
        RequestError: there is none, there are several, or it holds paths.
    """
    fields = {str(field.name): str(field.type) for field in schema}
    typed = [n for n in fields if features.get(n, {}).get("_type") == "Image"]
    for name in typed:
        if fields[name] in ("string", "large_string"):
            raise RequestError(
                f"{path}: column {name!r} holds paths of images; embed the images when writing "
                "the file"
            )
    structs = [n for n, kind in fields.items() if kind.startswith("struct<") and "bytes: " in kind]
    binary = [n for n, kind in fields.items() if kind in ("binary", "large_binary")]
    for candidates in (typed, structs, binary):
        if "image" in candidates:
            return "image"
        if len(candidates) == 1:
            return candidates[0]
        if candidates:
            raise RequestError(
                f"{path}: several image columns ({', '.join(candidates)}); "
                "call the one to use 'image'"
            )
    raise RequestError(
        f"{path}: no image column (struct with 'bytes'); its columns are {', '.join(fields)}"
    )


def _label_column(path: Path, schema: Any, features: Mapping[str, Mapping[str, Any]]) -> str | None:
    names = [str(name) for name in schema.names]
    typed = [n for n in names if features.get(n, {}).get("_type") == "ClassLabel"]
    if "label" in names:
        label = "label"
    elif len(typed) == 1:
        label = typed[0]
    elif typed:
        raise RequestError(
            f"{path}: several label columns ({', '.join(typed)}); call the one to use 'label'"
        )
    elif "labels" in names:
        label = "labels"
    else:
        return None
    _check_type(path, schema, label)
    return label


def _check_type(path: Path, schema: Any, column: str) -> None:
    kind = _kind(path, schema, column)
    if not (kind.startswith(("int", "uint")) or kind in ("string", "large_string")):
        raise RequestError(f"{path}: column {column!r} is {kind}; it must be whole numbers or text")


def _rows(file: Any, columns: _Columns) -> Any:
    wanted = [c for c in (columns.image, columns.label, columns.group) if c is not None]
    for batch in file.iter_batches(batch_size=1024, columns=wanted):
        images = batch.column(columns.image)
        if columns.image_is_struct:
            children = [images.type.field(i).name for i in range(images.type.num_fields)]
            images = images.flatten()[children.index("bytes")]  # flatten keeps a null struct null
        nothing = [None] * batch.num_rows
        labels = batch.column(columns.label).to_pylist() if columns.label else nothing
        groups = batch.column(columns.group).to_pylist() if columns.group else nothing
        yield from zip(images.to_pylist(), labels, groups, strict=True)


def _problem(columns: _Columns, data: Any, label: Any, group: Any) -> str | None:
    if data is None:
        return "no bytes, only a path; embed the images when writing the file"
    if columns.label is not None and (label is None or label == "" or label == -1):
        return f"no value in column {columns.label!r}"
    if columns.group is not None and (group is None or group == ""):
        return f"no value in column {columns.group!r}"
    return None

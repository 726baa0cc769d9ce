"""A sweep on disk: what it is about, its runs, its results. All of it is private.

DIR/
  sweep.yaml             base settings, varied keys, data: what a further call must agree with
  runs/TRAINING/         an ordinary run; private/sweep/SAMPLING/ holds what was measured
  logs/TRAINING.log      what its process printed
  cache/                 features of the real images
  results.jsonl  table.csv  table.md  table.html  figure.png  figure.svg  README.txt
"""

from __future__ import annotations

import fcntl
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dpdm.config import flatten, read_yaml
from dpdm.config.loading import from_mapping
from dpdm.data import Dataset
from dpdm.errors import DpdmError, RequestError
from dpdm.release.files import read_json, write_text
from dpdm.sweep.grid import PRESET, Cell, Grid, base_of, value_text
from dpdm.training.folder import RunFolder

_FORMAT = 1
_MAY_CHANGE = ("name", "about", "training.seed", "training.microbatch", "training.checkpoint_every")


@dataclass(frozen=True)
class SweepFolder:
    """Paths of a sweep, and what lies there."""

    path: Path

    @property
    def about(self) -> Path:
        """What every cell has in common."""
        return self.path / "sweep.yaml"

    @property
    def results(self) -> Path:
        """One JSON object per cell, gathered from the runs."""
        return self.path / "results.jsonl"

    @property
    def cache(self) -> Path:
        """Features of the real images, which all cells compare with."""
        return self.path / "cache"

    def run(self, training: str) -> RunFolder:
        """The run of a training."""
        return RunFolder(self.path / "runs" / training)

    def runs(self) -> dict[str, RunFolder]:
        """Every run that has begun, by the name of its training."""
        folders = sorted((self.path / "runs").glob("*/private/config.yaml"))
        return {f.parents[1].name: RunFolder(f.parents[1]) for f in folders}

    def place(self, cell: Cell) -> Path:
        """Where the samples of a cell and what was measured on them lie."""
        return measured_place(self.run(cell.training_name), cell.sampling_name)

    def line(self, cell: Cell) -> dict[str, Any] | None:
        """The result of a cell, or None where it is not finished."""
        return read_json(self.place(cell) / "result.json")

    def measure(self) -> str | None:
        """The features of its Frechet distance, or None where no sweep is there yet."""
        return str(_read(self.about)["frechet"]) if self.about.is_file() else None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One process at a time carries the sweep out.

        Raises:
            RequestError: another one does.
        """
        with (self.path / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise RequestError(
                    f"--out {self.path}: another process is carrying this sweep out; wait for it, "
                    "or give another --out"
                ) from None
            yield

    def gather(self) -> list[dict[str, Any]]:
        """Rebuilds ``results.jsonl`` from the runs: the results of all cells, of every call."""
        files = (self.path / "runs").glob("*/private/sweep/*/result.json")
        lines = [line for file in sorted(files) if (line := read_json(file)) is not None]
        order = _read(self.about)["values"]
        lines.sort(key=lambda line: _in_order(line, order))
        write_text(self.results, "".join(json.dumps(line) + "\n" for line in lines))
        return lines


def measured_place(run: RunFolder, sampling: str) -> Path:
    """The private folder of one sampling of a run."""
    return run.private / "sweep" / (sampling or "as-trained")


def _in_order(line: Mapping[str, Any], order: Mapping[str, list[Any]]) -> list[float]:
    """Numbers by size, words in the order in which they were asked for, seeds last."""
    return [
        *(
            value if _numeric(order[key]) else order[key].index(value)
            for key, value in line["values"].items()
        ),
        line["seed"],
    ]


def _numeric(values: Sequence[Any]) -> bool:
    return all(isinstance(value, int | float) for value in values)


def _values(cells: Sequence[Cell]) -> dict[str, list[Any]]:
    """Every key that is varied, with its values in the order of the cells."""
    found: dict[str, list[Any]] = {}
    for cell in cells:
        for key, value in json.loads(json.dumps(cell.values)):
            known = found.setdefault(key, [])
            if value not in known:
                known.append(value)
    return found


def described(
    grid: Grid, cells: Sequence[Cell], train: Dataset, test: Dataset | None, frechet: str
) -> dict[str, Any]:
    """What the cells of a sweep have in common: the content of ``sweep.yaml``."""
    names = grid.sources if PRESET in grid.vary else ("base",)
    bases = [base_of(grid, source) for source in grid.sources]
    return {
        "format": _FORMAT,
        "values": _values(cells),
        "frechet": frechet,
        "data": _facts(train),
        "test": None if test is None else _facts(test),
        "bases": {
            name: base.model_dump(mode="json") for name, base in zip(names, bases, strict=True)
        },
    }


def check_folder(folder: SweepFolder, about: Mapping[str, Any]) -> None:
    """A folder that is new, or whose sweep this one continues or extends by values and seeds.

    Raises:
        RequestError: it holds something else, or a sweep with another base, other keys, other data
            or another measure, naming what differs.
    """
    if folder.about.is_file():
        _same(folder, _read(folder.about), about)
    elif folder.path.exists() and (not folder.path.is_dir() or any(folder.path.iterdir())):
        raise RequestError(
            f"--out {folder.path}: holds something else; give a folder that is not there"
        )


def begin(folder: SweepFolder, about: Mapping[str, Any]) -> None:
    """Writes ``sweep.yaml``, of what is there already and what is added, and a warning."""
    about = dict(about)
    if folder.about.is_file():
        before = _read(folder.about)
        about["bases"] = before["bases"] | about["bases"]
        about["values"] = {
            key: known + [value for value in about["values"][key] if value not in known]
            for key, known in before["values"].items()
        }
    write_text(folder.about, yaml.safe_dump(about, sort_keys=False, allow_unicode=True))
    write_text(
        folder.path / "README.txt",
        "Measured on private images without noise: not covered by any guarantee. Do not share.\n",
    )


def in_columns_of(folder: SweepFolder, grid: Grid) -> Grid:
    """The grid with its keys in the order in which an existing sweep has them."""
    if not folder.about.is_file():
        return grid
    known = [key for key in _read(folder.about)["values"] if key in grid.vary]
    order = [*known, *(key for key in grid.vary if key not in known)]
    return Grid(grid.source, grid.settings, {k: grid.vary[k] for k in order}, grid.seeds)


def _facts(data: Dataset) -> dict[str, Any]:
    return {
        "name": data.name,
        "shape": list(data.shape),
        "classes": list(data.classes),
        "size": data.public_size,
    }


def _read(path: Path) -> dict[str, Any]:
    about = read_yaml(path.read_text("utf-8"), str(path))
    if not isinstance(about, dict) or about.get("format") != _FORMAT:
        raise DpdmError(f"{path}: not a sweep of this version of dpdm")
    return about


def _same(folder: SweepFolder, before: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    keys = set(before["values"])
    if keys != set(about["values"]):
        raise RequestError(
            f"--out {folder.path}: the sweep there varies {_listed(before['values'])}, this one "
            f"{_listed(about['values'])}; vary the same keys (a single value will do), or give "
            "another --out"
        )
    for what in ("data", "test", "frechet"):
        if before[what] != about[what]:
            raise RequestError(
                f"--out {folder.path}: the sweep there was measured with {what} {before[what]}, "
                f"not {about[what]}; give the same, or another --out"
            )
    for name in set(before["bases"]) & set(about["bases"]):
        old = flatten(from_mapping(before["bases"][name], str(folder.about)))
        new = flatten(from_mapping(about["bases"][name], str(folder.about)))
        for key, value in new.items():
            if key not in keys and key not in _MAY_CHANGE and old[key] != value:
                raise RequestError(
                    f"--out {folder.path}: {key}={value_text(value)}, but the sweep there has "
                    f"{value_text(old[key])} in every cell; use that, vary {key} in a new --out, "
                    "or give another --out"
                )


def _listed(keys: Iterable[str]) -> str:
    return ", ".join(sorted(keys)) or "nothing"

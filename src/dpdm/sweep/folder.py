"""A sweep on disk: what it is about, its runs, its results. All of it is private.

DIR/
  sweep.yaml             base settings, varied keys, data: what a further call must agree with;
                         the trainings that have begun
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
from dpdm.sweep.grid import ALTERNATIVES, PRESET, Cell, Grid, base_of, value_text
from dpdm.training.folder import RunFolder, place_aside

_FORMAT = 1
_LOCK = ".lock"
_HASH = "sha256"
_KINDS = {
    "values": dict,
    "frechet": str,
    "data": dict,
    "test": dict | None,
    "bases": dict,
    "begun": list,
}
_RESTORE = "restore it from a backup, or start a new sweep with another --out"
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
        """Every run that has begun, by the name of its training.

        Raises:
            DpdmError: one that ``sweep.yaml`` names is gone, and with it what it spent.
        """
        folders = sorted((self.path / "runs").glob("*/private/config.yaml"))
        found = {f.parents[1].name: RunFolder(f.parents[1]) for f in folders}
        begun = _read(self.about)["begun"] if self.about.is_file() else []
        if gone := [name for name in begun if name not in found]:
            raise DpdmError(
                f"{self.run(gone[0]).config}: missing, though this training has begun and may have "
                f"spent: {_RESTORE}"
            )
        return found

    def remember(self, trainings: Iterable[str]) -> None:
        """Lists in ``sweep.yaml`` those of them that have begun: what they spent is to count."""
        about = _read(self.about)
        known = about["begun"]
        new = {name for name in trainings if self.run(name).config.is_file()}.difference(known)
        if new:
            self.write_about(about | {"begun": [*known, *sorted(new)]})

    def move_aside(self, training: str) -> Path:
        """Makes room for a training to begin anew; what it spent counts at its new place.

        So that a kill in between leaves nothing that looks lost, its former name is forgotten
        before, and the new one listed after.
        """
        path, about = self.run(training).path, _read(self.about)
        begun = [name for name in about["begun"] if name != training]
        self.write_about(about | {"begun": begun})
        aside = place_aside(path)
        path.rename(aside)
        self.remember([aside.name])
        return aside

    def write_about(self, about: Mapping[str, Any]) -> None:
        """Writes ``sweep.yaml``."""
        write_text(self.about, yaml.safe_dump(dict(about), sort_keys=False, allow_unicode=True))

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
        """One process at a time carries the sweep out; its folder is made where it is not there.

        Raises:
            RequestError: another one does.
            DpdmError: the folder cannot be made or written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = (self.path / _LOCK).open("w")
        except OSError as error:
            raise DpdmError(
                f"--out {self.path}: cannot be written ({error.strerror}); give a folder that may "
                "be written"
            ) from None
        with lock as file:
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
    elif folder.path.exists() and not _empty(folder.path):
        raise RequestError(
            f"--out {folder.path}: holds something else; give a folder that is not there"
        )


def _empty(path: Path) -> bool:
    """Whether nothing lies there but the lock of a sweep that is about to begin."""
    return path.is_dir() and all(entry.name == _LOCK for entry in path.iterdir())


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
        about["begun"] = before["begun"]
    folder.write_about(about)
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
        _HASH: data.private_hash,
    }


def _read(path: Path) -> dict[str, Any]:
    try:
        about = read_yaml(path.read_text("utf-8"), str(path))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise DpdmError(f"{path}: cannot be read ({reason}); {_RESTORE}") from None
    if not isinstance(about, dict) or about.get("format") != _FORMAT:
        raise DpdmError(f"{path}: not a sweep of this version of dpdm")
    about.setdefault("begun", [])  # older ones do not say
    wrong = [k for k, kind in _KINDS.items() if k not in about or not isinstance(about[k], kind)]
    if wrong or not all(isinstance(listed, list) for listed in about["values"].values()):
        raise DpdmError(f"{path}: damaged ({', '.join(wrong) or 'values'}); {_RESTORE}")
    return about


def _same(folder: SweepFolder, before: Mapping[str, Any], about: Mapping[str, Any]) -> None:
    keys = set(before["values"])
    if keys != set(about["values"]):
        raise RequestError(
            f"--out {folder.path}: the sweep there varies {_listed(before['values'])}, this one "
            f"{_listed(about['values'])}; vary the same keys (a single value will do), or give "
            "another --out"
        )
    if list(before["values"]) != list(about["values"]):
        raise RequestError(
            f"--out {folder.path}: another process has just begun this sweep with its keys in "
            "another order; the same command goes on with it"
        )
    for what in ("data", "test", "frechet"):
        old, new = _without_hash(before[what]), _without_hash(about[what])
        if old != new:
            raise RequestError(
                f"--out {folder.path}: the sweep there was measured with {what} {old}, not {new}; "
                "give the same, or another --out"
            )
    for what in ("data", "test"):
        # Older ones do not say.
        if before[what] and before[what].get(_HASH, about[what][_HASH]) != about[what][_HASH]:
            raise RequestError(
                f"--out {folder.path}: the images, labels or groups of {what} are not those that "
                "the sweep there was measured with; give the same, or another --out"
            )
    for name in set(before["bases"]) & set(about["bases"]):
        old, new = (_flat(sweep["bases"][name], folder.about) for sweep in (before, about))
        if lost := [key for key in old if key not in new]:
            raise RequestError(
                f"--out {folder.path}: the sweep there has {lost[0].rpartition('.')[0]}, which is "
                "gone; leave it there, or give another --out"
            )
        for key, value in new.items():  # sampler settings may come in addition
            if key not in {*keys, *_MAY_CHANGE} and old.get(key, value) != value:
                raise RequestError(
                    f"--out {folder.path}: {key}={value_text(value)}, but the sweep there has "
                    f"{value_text(old[key])} in every cell; use that, vary {key} in a new --out, "
                    "or give another --out"
                )


def _flat(base: Mapping[str, Any], source: Path) -> dict[str, Any]:
    """The values of a base by their dotted keys, those of named sampler settings among them."""
    flat = flatten(from_mapping(base, str(source)))
    for name, settings in flat.pop(ALTERNATIVES).items():
        flat |= flatten(settings, f"{ALTERNATIVES}.{name}.")
    return flat


def _without_hash(facts: Any) -> Any:
    return {k: v for k, v in facts.items() if k != _HASH} if isinstance(facts, dict) else facts


def _listed(keys: Iterable[str]) -> str:
    return ", ".join(sorted(keys)) or "nothing"

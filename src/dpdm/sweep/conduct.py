"""A sweep from request to results: prepared without spending anything, then carried out."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dpdm
from dpdm import pipeline
from dpdm.config.schema import DataConfig
from dpdm.data import Dataset
from dpdm.errors import RequestError
from dpdm.evaluation.features import find_inception
from dpdm.privacy import Ledger
from dpdm.processors import cores
from dpdm.release.precision import resolve_device
from dpdm.sweep.cell import Job
from dpdm.sweep.folder import SweepFolder, begin, check_folder, described, in_columns_of
from dpdm.sweep.grid import Cell, Grid, expand
from dpdm.sweep.output import write_outputs
from dpdm.sweep.runner import Ended, run_jobs
from dpdm.sweep.spending import Composed, Training, is_stuck, planned, spent, trainings_of
from dpdm.training.folder import ledger_path
from dpdm.training.interrupt import Interrupted

FRECHET = ("auto", "pixels", "inception")


@dataclass(frozen=True)
class Prepared:
    """A sweep that can start; nothing was written or spent for it.

    Attributes:
        folder: where it will lie, or lies.
        about: what its cells have in common.
        cells: those asked for.
        trainings: those behind the cells.
        planned: what all of the folder's trainings will have spent together.
        frechet: ``pixels`` or ``inception``.
    """

    folder: SweepFolder
    about: dict[str, Any]
    cells: tuple[Cell, ...]
    trainings: tuple[Training, ...]
    planned: Composed
    frechet: str

    @property
    def image_passes(self) -> int:
        """Of all trainings, those that are done included."""
        return sum(one.image_passes for one in self.trainings)

    @property
    def missing(self) -> tuple[Cell, ...]:
        """Cells without a result."""
        return tuple(cell for cell in self.cells if self.folder.line(cell) is None)

    @property
    def shared_ledger(self) -> bool:
        """Whether all trainings write to one ledger, and so cannot run side by side."""
        return any(one.config.privacy.ledger for one in self.trainings)


def prepare(
    grid: Grid,
    out: Path,
    train: Dataset,
    test: Dataset | None,
    frechet: str,
    *,
    data_given: bool = False,
) -> Prepared:
    """Checks everything that can be checked before the first private image is read into a step.

    Args:
        grid: what is varied.
        out: the sweep's folder.
        train: the training images of every cell.
        test: the test images, or None.
        frechet: one of ``FRECHET``.
        data_given: whether ``train`` was named beside the presets (``--data``), so that it does
            not matter which data they name.

    Raises:
        RequestError: a wrong key or value, a cell that cannot be trained, a folder of another
            sweep, no Inception network where it was asked for.
        DpdmError: a damaged or lost ledger or run, or a shared ledger without room for what is to
            come.
    """
    folder = SweepFolder(out)
    measure = _frechet(frechet, folder)
    cells = expand(in_columns_of(folder, grid))
    for what, values in (
        ("on different data", {_data(cell, data_given) for cell in cells}),
        ("of different units", {cell.config.privacy.unit for cell in cells}),
        ("that are measured differently", {cell.config.evaluation for cell in cells}),
    ):
        if len(values) > 1:
            raise RequestError(
                f"--vary preset={','.join(grid.sources)}: presets {what} cannot be compared"
            )
    if test is not None and test.classes:
        pipeline.check_test_set(train, test)
    pipeline.check_sampling(max((c.config for c in cells), key=lambda c: c.sampling.count), train)
    about = described(grid, cells, train, test, measure)
    check_folder(folder, about)
    trainings = trainings_of(cells, train.facts(cells[0].config.privacy.unit))
    return Prepared(folder, about, cells, trainings, planned(trainings, folder.runs()), measure)


def _data(cell: Cell, data_given: bool) -> DataConfig:
    """What a cell says of its data, their name left out where another one is given."""
    data = cell.config.data
    return data.model_copy(update={"spec": None}) if data_given else data


def _frechet(asked: str, folder: SweepFolder) -> str:
    """Which features the Frechet distance is in: the same for every cell, now and later."""
    if asked not in FRECHET:
        raise RequestError(f"--frechet {asked}: use {', '.join(FRECHET)}")
    if asked == "auto" and (before := folder.measure()):
        return before
    if asked == "pixels":
        return "pixels"
    found = find_inception(None) is not None
    if asked == "inception" and not found:
        raise RequestError(
            "--frechet inception: its file is not there; `dpdm evaluate ... --inception download` "
            "fetches it, or use --frechet pixels"
        )
    return "inception" if found else "pixels"


@dataclass(frozen=True)
class Options:
    """How a sweep is carried out.

    Attributes:
        data: SPEC of the training images, for the processes of the cells.
        test: SPEC of the test images, or None.
        jobs: processes at a time.
        device: ``auto``, ``cpu`` or ``cuda``.
        tell: called with cells done, cells in all and the names of what is running.
        note: called with one line for people.
    """

    data: str
    test: str | None
    jobs: int
    device: str
    tell: Callable[[int, int, str], None]
    note: Callable[[str], None]


def jobs_for(asked: str, prepared: Prepared, device: str) -> int:
    """How many processes: a number, or for ``auto`` one a core, and one where they would clash.

    Raises:
        RequestError: neither a number above 0 nor ``auto``.
    """
    if asked != "auto" and not (asked.isdecimal() and int(asked) > 0):
        raise RequestError(f"--jobs {asked}: use a number of processes, or auto for one a core")
    if prepared.shared_ledger:
        return 1
    if asked != "auto":
        return int(asked)
    return 1 if resolve_device(device).type == "cuda" else cores()


def conduct(prepared: Prepared, options: Options) -> dict[str, Any]:
    """Runs what is missing and writes the results: the object of ``dpdm sweep --json``.

    Raises:
        RequestError: another process is carrying it out, or has just begun another sweep there.
        DpdmError: the folder cannot be written; a run or its ledger is lost.
        Interrupted: Ctrl-C; what is done is kept, and the same command goes on.
    """
    folder = prepared.folder
    with folder.locked():
        check_folder(folder, prepared.about)
        begin(folder, prepared.about)
        return _conduct(prepared, options)


def _conduct(prepared: Prepared, options: Options) -> dict[str, Any]:
    folder = prepared.folder
    folder.remember(folder.runs())
    _move_stuck_runs(prepared, options)
    folder.gather()
    begun = set(folder.runs())
    missing, ended, total = prepared.missing, list[Ended](), len(prepared.cells)
    finished = total - len(missing)

    def tell(names: list[str]) -> None:
        remember(names)
        if finished < total:
            options.tell(finished, total, ", ".join(names))

    def remember(names: list[str]) -> None:
        if new := [n for n in names if n not in begun and folder.run(n).config.is_file()]:
            folder.remember(new)
            begun.update(new)

    def done(end: Ended) -> None:
        nonlocal finished
        ended.append(end)
        remember([end.job.name])
        folder.gather()
        finished = total - len(prepared.missing)
        if end.error:
            options.note(f"{end.job.name} failed: {end.error}")

    whole = run_jobs(
        _jobs(prepared, missing, options),
        options.jobs,
        folder.path / "logs",
        tell=tell,
        done=done,
    )
    options.tell(finished, total, "")
    lines = folder.gather()
    composed = spent(folder.runs())
    if lines:
        write_outputs(folder, lines, composed)
    if not whole:
        raise Interrupted(
            f"interrupted with {finished} of {total} cells done and the state of the others saved; "
            "the same command goes on"
        )
    return {
        "folder": str(folder.path),
        "cells": total,
        "done": finished,
        "failed": {end.job.name: end.error for end in ended if end.error},
        "trainings": composed.total,
        "private_trainings": composed.trainings,
        "not_private": composed.not_private,
        "composed_epsilon": composed.epsilon,
        "delta": composed.delta or None,
        "accountant": composed.accountant,
        "results": lines,
    }


def _move_stuck_runs(prepared: Prepared, options: Options) -> None:
    """Moves aside the runs that can never go on: their ledgers count, and they begin anew."""
    runs = prepared.folder.runs()
    for one in prepared.trainings:
        run = runs.get(one.name)
        if run is None or not is_stuck(one, run):
            continue
        with Ledger.open(ledger_path(run, one.config)):  # no process still writes to it
            aside = prepared.folder.move_aside(one.name)
        options.note(
            f"{one.name} was stopped while it released statistics, and its budget does not allow "
            f"it once more: what it spent counts in {aside}, and the training begins anew"
        )


def _jobs(prepared: Prepared, missing: tuple[Cell, ...], options: Options) -> list[Job]:
    left = {cell.name for cell in missing}
    threads = 1 if options.jobs > 1 else None
    software = {"version": dpdm.__version__, "commit": commit()}
    return [
        Job(
            training.name,
            str(prepared.folder.run(training.name).path),
            training.cells[0].training.model_dump(mode="json"),
            tuple(
                {
                    "name": cell.name,
                    "sampling_name": cell.sampling_name,
                    "values": dict(cell.values),
                    "seed": cell.seed,
                    "config": cell.config.model_dump(mode="json"),
                }
                for cell in training.cells
                if cell.name in left
            ),
            options.data,
            options.test,
            prepared.frechet,
            str(prepared.folder.cache),
            options.device,
            threads,
            software,
        )
        for training in prepared.trainings
        if any(cell.name in left for cell in training.cells)
    ]


def commit() -> str:
    """The short hash of the checkout that the package runs from, ``+`` where it was changed since;
    ``unknown`` where it is installed."""
    package = Path(__file__).resolve().parents[1]

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(package), *arguments], capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "__init__.py")
        changed = git("status", "--porcelain", "--", ".")
        return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"

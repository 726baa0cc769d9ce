"""``dpdm sweep``: one question about settings, asked by many runs, answered by a table."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dpdm.cli.console import Display, note, out, print_json, table
from dpdm.cli.options import (
    Data,
    Device,
    Json,
    Settings,
    load,
    open_training_data,
    open_with,
    refuse_in_data,
)
from dpdm.cli.run import Test, find_test_data, test_spec
from dpdm.errors import DpdmError, RequestError

if TYPE_CHECKING:
    from dpdm.sweep.cell import Job
    from dpdm.sweep.conduct import Prepared
    from dpdm.sweep.grid import Cell, Grid


def register(app: typer.Typer) -> None:
    """Adds the commands of this file."""
    app.command("sweep")(sweep_command)
    app.command("sweep-training", hidden=True)(training_command)


def sweep_command(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="PRESET|CONFIG.yaml|SWEEP",
            help="What every cell starts from, or a ready-made sweep (--list).",
            show_default=False,
        ),
    ] = None,
    vary: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=V1,V2,...",
            help="A key and its values; repeat it for a grid. A value that is a list has "
            "brackets: network.multipliers=[1,1],[1,2]. sampler is sampling.sampler; settings "
            "names sampler settings; preset names a base.",
        ),
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(help="Repeats of every cell; default 1.", min=1)
    ] = None,
    settings: Settings = None,
    data: Data = None,
    test: Test = None,
    out_folder: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Sweep's folder; default runs/sweep-NAME."),
    ] = None,
    jobs: Annotated[
        str, typer.Option(metavar="N|auto", help="Trainings at a time; auto: one a core.")
    ] = "auto",
    frechet: Annotated[
        str | None,
        typer.Option(
            metavar="auto|pixels|inception",
            help="Features of the Frechet distance; auto: Inception where its file is found.",
        ),
    ] = None,
    device: Device = "auto",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the grid and what it costs; do nothing.")
    ] = False,
    list_ready: Annotated[
        bool, typer.Option("--list", help="List the ready-made sweeps and what they cost.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Train, sample and evaluate every cell of a grid of settings. The result is private.

    The same command goes on where it was stopped; more values or seeds extend a sweep.
    """
    if list_ready:
        _list(as_json)
        return
    if source is None:
        raise RequestError("name a preset, a configuration or a ready-made sweep (--list)")
    from dpdm.release.files import refuse_release
    from dpdm.sweep.conduct import Options, conduct, jobs_for, prepare

    name, grid, measure = _request(source, vary or [], settings or [], seeds, frechet)
    config = load(grid.sources[0], list(grid.settings))
    train, found = open_training_data(config, data), find_test_data(config, data, test)
    folder = out_folder or Path("runs") / f"sweep-{name}"
    refuse_release("--out", folder)
    refuse_in_data(folder, config, data)
    prepared = prepare(grid, folder, train, found, measure, data_given=data is not None)
    processes = jobs_for(jobs, prepared, device)
    if dry_run:
        _print_plan(prepared, as_json)
        return
    _warn(prepared)
    note(f"what each training prints is in {folder / 'logs'}")
    with Display() as shown:
        result = conduct(
            prepared,
            Options(
                data or str(config.data.spec),
                None if found is None else test_spec(config, data, test),
                processes,
                device,
                lambda done, total, names: shown.update("cells", done, total, names),
                note,
            ),
        )
    _print_result(result, as_json)


def _request(
    source: str, vary: list[str], settings: list[str], seeds: int | None, frechet: str | None
) -> tuple[str, Grid, str]:
    """A name for the sweep, its grid, and the features of its Frechet distance."""
    import difflib

    from dpdm.sweep.grid import Grid, parse_vary
    from dpdm.sweep.ready import ready_names, ready_sweep

    varied, ready = parse_vary(vary), ready_sweep(source)
    if ready is None:
        if not varied:
            close = difflib.get_close_matches(source, ready_names(), n=1)
            hint = (
                f"did you mean the sweep {close[0]}?" if close else "`dpdm sweep --list` has some"
            )
            raise RequestError(
                f"{source}: nothing to vary; give --vary KEY=V1,V2,..., or name a ready-made "
                f"sweep: {hint}"
            )
        return (
            Path(source).stem,
            Grid(source, tuple(settings), varied, seeds or 1),
            frechet or "auto",
        )
    grid = Grid(
        ready.grid.source,
        (*ready.grid.settings, *settings),
        {**ready.grid.vary, **varied},
        seeds or ready.grid.seeds,
    )
    return ready.name, grid, frechet or ready.frechet


def _warn(prepared: Prepared) -> None:
    """What every cell's user should know before the first of them spends anything."""
    total = prepared.planned
    note("measured on real images without noise: the results are private, keep them inside")
    if total.trainings:
        note(
            f"warning: {_trainings(total.trainings)} on the same private data. Each cell keeps its "
            "own epsilon, but whoever chooses among them, or publishes several, spends the epsilon "
            f"of all together: {_epsilon(total.epsilon)} at delta {total.delta:g} "
            f"({total.accountant})"
        )
    if total.not_private:
        note(f"warning: {total.not_private}")
    if prepared.shared_ledger:
        note("one training at a time: they share a ledger (privacy.ledger)")


def _trainings(count: int) -> str:
    return f"{count} training" if count == 1 else f"{count} trainings"


def _epsilon(value: float | None) -> str:
    from dpdm.promise.wording import at_most

    return "no finite value" if value is None else at_most(value)


def _print_plan(prepared: Prepared, as_json: bool) -> None:
    """The grid without its seeds: what each combination costs, and all together."""
    from dpdm.sweep.grid import value_text

    total = prepared.planned
    plans = {cell.name: one for one in prepared.trainings for cell in one.cells}
    first: dict[str, Cell] = {}
    for cell in prepared.cells:  # presets may count their seeds from different numbers
        first.setdefault(repr(cell.values), cell)
    rows = [(cell, plans[cell.name]) for cell in first.values()]
    keys = [key for key, _ in prepared.cells[0].values]
    seeds = len(prepared.cells) // len(rows)
    if as_json:
        print_json(
            {
                "cells": [
                    {
                        "values": dict(cell.values),
                        "epsilon": plan.config.privacy.epsilon if plan.private else None,
                        "steps": plan.config.training.steps_to_do,
                        "noise_multiplier": plan.plan.noise_multiplier or None,
                        "image_passes": plan.image_passes,
                    }
                    for cell, plan in rows
                ],
                "seeds": seeds,
                "trainings": len(prepared.trainings),
                "done": len(prepared.cells) - len(prepared.missing),
                "image_passes": prepared.image_passes,
                "composed_epsilon": total.epsilon,
                "not_private": total.not_private,
                "delta": total.delta or None,
                "accountant": total.accountant,
            }
        )
        return
    table(
        (*keys, "epsilon", "steps", "noise", "image passes"),
        [
            (
                *(value_text(value) for _, value in cell.values),
                f"{plan.config.privacy.epsilon:g}" if plan.private else "none",
                plan.config.training.steps_to_do,
                f"{plan.plan.noise_multiplier:.4g}" if plan.plan.noise_multiplier else "",
                f"{plan.image_passes:,}",
            )
            for cell, plan in rows
        ],
    )
    done = len(prepared.cells) - len(prepared.missing)
    out.print(
        f"{len(rows)} settings, {seeds} seeds each: {len(prepared.cells)} cells, "
        f"{_trainings(len(prepared.trainings))}, {prepared.image_passes:,} image passes; "
        f"{done} cells are done",
        markup=False,
    )
    _warn(prepared)


def _print_result(result: dict[str, Any], as_json: bool) -> None:
    """Table and files, and a status of 1 where a cell failed."""
    from dpdm.sweep.table import cells, headings, rows_of

    lines = result["results"]
    if as_json:
        print_json(result)
    elif lines:
        keys = list(lines[0]["values"])
        table(
            headings(keys, lines[0]["frechet_measure"]),
            [cells(keys, row) for row in rows_of(lines)],
        )
        if result["delta"] is not None:
            out.print(
                f"spent by {_trainings(result['private_trainings'])} together, by their ledgers: "
                f"epsilon {_epsilon(result['composed_epsilon'])} at delta {result['delta']:g}",
                markup=False,
            )
        if result["not_private"]:
            out.print(result["not_private"], markup=False)
        out.print(f"private results: {result['folder']} (table.html, figure.png)", markup=False)
    for name, error in result["failed"].items():
        note(f"failed: {name}: {error}")
    if result["failed"]:
        raise DpdmError(
            f"{len(result['failed'])} of {result['cells']} cells failed; the same command tries "
            "them again"
        )


def _list(as_json: bool) -> None:
    """The ready-made sweeps, at the sizes that their data sets are known to have."""
    from dpdm.sweep.grid import expand
    from dpdm.sweep.ready import ready_names, ready_sweep

    rows = []
    for name in ready_names():
        ready = ready_sweep(name)
        assert ready is not None
        cells = expand(ready.grid)
        trainings = {cell.training_name: cell.config for cell in cells}
        passes = sum(config.image_passes for config in trainings.values())
        row = {"name": name, "about": ready.about, "cells": len(cells)}
        rows.append(row | {"trainings": len(trainings), "image_passes": passes})
    if as_json:
        print_json({"sweeps": rows})
        return
    table(
        ("sweep", "cells", "trainings", "image passes", "what"),
        [
            (row["name"], row["cells"], row["trainings"], f"{row['image_passes']:,}", row["about"])
            for row in rows
        ],
    )


def training_command() -> None:
    """One training of a sweep, told on standard input what to do; `dpdm sweep` starts it."""
    from dpdm.sweep.runner import receive

    job = receive(sys.stdin)
    if job.threads is not None:
        import torch

        torch.set_num_threads(job.threads)
    perform(job)


def perform(job: Job) -> None:
    """Opens the data of a job and carries it out."""
    from dpdm.config.loading import from_mapping
    from dpdm.sweep.cell import carry_out

    config = from_mapping(job.training, job.name)
    train = open_with(config, job.data)
    test = None if job.test is None else open_with(config, job.test)
    with Display() as shown:
        carry_out(job, train, test, shown.training, shown.update)

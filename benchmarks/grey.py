"""A person's own grey images: what `own` and `own-prior` make of 10,000 of them, nothing told.

    python benchmarks/grey.py --data FOLDER     # 40 minutes on two idle cores

10,000 training images of MNIST and of Fashion-MNIST, drawn at random, and 10,000 others to measure
on: no test image enters. Each preset as it is, and with images taken as they are, at epsilon 10,
but for 20,000 samples. A line of each goes to `docs/results/grey.jsonl`, the table and a picture of
each set into `docs/`. What has its line is not measured again. `--document` only writes the table
anew.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import (
    ROOT,
    append_line,
    lines_so_far,
    machine,
    read_lines,
    run_command,
    table,
    write_between,
)
from pictures import side_by_side
from recipes import GREY, open_set, part

from dpdm import evaluate, load_config, pipeline
from dpdm.data import Dataset
from dpdm.evaluation import sample_grid
from dpdm.training.prior.design import Candidate
from dpdm.training.run import Run, train

RESULTS, PAGE = ROOT / "docs" / "results", ROOT / "docs" / "results.md"
MARKS = "<!-- written by benchmarks/grey.py -->", "<!-- end of benchmarks/grey.py -->"
NOTHING = ", nothing chosen"
ROWS = {
    f"{preset}{more}": (preset, settings)
    for more, settings in ((NOTHING, ("prior.normalise=none",)), ("", ()))
    for preset in ("own-prior", "own")
}
"""Preset and settings of each row; a picture has those of the presets as they are."""
IMAGES, SAMPLES, SHOWN = 10_000, 20_000, 6
SETTINGS = ("privacy.epsilon=10", f"sampling.count={SAMPLES}")

Line = dict[str, Any]


def finished(row: str, real: Dataset, folder: Path) -> Run:
    """The run in ``folder`` with its samples, made where it is not there."""
    preset, settings = ROWS[row]
    run = train(real, load_config(preset, (*SETTINGS, *settings)), folder, resume=folder.exists())
    pipeline.sample_release(run)
    return run


def measure(name: str, preset: str, run: Run, real: Dataset, held: Dataset) -> Line:
    """What the samples of a run are worth."""
    state, statement = run.folder.read_state(), run.statement()
    found = evaluate(
        pipeline.read_samples(run),
        train=real,
        test=held,
        metrics=["classifiers", "fid"],
        inception="none",
        features=["pixels"],
        cache=run.folder.private / "cache",
    )
    return {
        "set": name,
        "preset": preset,
        "epsilon": statement["epsilon"],
        "delta": statement["delta"],
        "images": IMAGES,
        "samples": SAMPLES,
        "steps": state.get("steps_done", 0),
        "chosen": state.get("prior_chosen"),
        "train_seconds": round(state["training_seconds"], 1),
        "sample_seconds": round(state["sampling_seconds"], 1),
        "accuracy": {kind: round(value, 4) for kind, value in found["accuracy"].items()},
        "fd_pixels": round(found["fd-pixels"], 3),
        "machine": machine(),
    }


def section(lines: Sequence[Line]) -> str:
    """The generated part of the page: the newest line of each set and preset."""
    newest = {(line["set"], line["preset"]): line for line in lines}
    rows = [
        [
            GREY[name],
            f"`{preset.removesuffix(NOTHING)}`{NOTHING if NOTHING in preset else ''}",
            _chosen(line.get("chosen")),
            *(f"{100 * line['accuracy'][kind]:.1f}" for kind in ("lr", "mlp", "cnn")),
            f"{line['fd_pixels']:.2f}",
            f"{line['train_seconds']:,.0f}",
            f"{line['sample_seconds']:,.0f}",
        ]
        for name in GREY
        for preset in ROWS
        if (line := newest.get((name, preset)))
    ]
    last, where = lines[-1], lines[-1]["machine"]
    heads = (
        "set",
        "preset",
        "chosen",
        "LR",
        "MLP",
        "CNN",
        "pixel distance",
        "train, s",
        "sample, s",
    )
    pictures = [f"![{GREY[name]}: own-prior, own](results/grey-{name}.png)" for name in GREY]
    return "\n\n".join(
        [
            table(heads, rows),
            f"Epsilon {last['epsilon']:.3g}, delta {last['delta']:g}, one run each; "
            f"{where['processor']}, {where['cores']} cores, torch {where['torch']}, commit "
            f"{where['commit']}.",
            *pictures,
        ]
    )


def _chosen(found: dict[str, Any] | None) -> str:
    """What the images voted for, in words."""
    if found is None:
        return ""
    return Candidate(found["normalise"], found["augment"], found["texture"]).in_words()


def document(lines: Sequence[Line], page: Path) -> None:
    """Writes the table of the page anew."""
    write_between(page, MARKS, section(lines))


def picture(runs: Sequence[Run]) -> bytes:
    """Samples of the presets side by side, none picked."""
    return side_by_side(
        [
            sample_grid(*pipeline.read_samples(run), run.model().classes, SHOWN, scale=2, gap=2)
            for run in runs
        ]
    )


def made_parser() -> argparse.ArgumentParser:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder that holds mnist/ and fashion/")
    parser.add_argument("--work", type=Path, default=Path("runs/grey"))
    parser.add_argument("--document", action="store_true", help="only write the table anew")
    return parser


def main() -> None:
    """Measures what is missing, or only writes the page."""
    options = made_parser().parse_args()
    path = RESULTS / "grey.jsonl"
    done = {(line["set"], line["preset"]) for line in lines_so_far(path)}
    for name in () if options.document else GREY:
        missing = [row for row in ROWS if (name, row) not in done]
        if not missing:
            continue
        data = open_set(name, options.data, GREY[name])[0]
        order = np.random.default_rng(0).permutation(data.private_count)
        real, held = part(data, order[:IMAGES]), part(data, order[-IMAGES:])
        shown = [row for row in ROWS if NOTHING not in row]
        runs = {
            row: finished(row, real, options.work / f"{name}-{row.replace(', ', '-')}")
            for row in dict.fromkeys([*missing, *shown])
        }
        for row in missing:
            append_line(path, measure(name, row, runs[row], real, held))
        (RESULTS / f"grey-{name}.png").write_bytes(picture([runs[row] for row in shown]))
    document(read_lines(path), PAGE)


if __name__ == "__main__":
    run_command(main)

"""A person's own grey images: what `own` and `own-prior` make of 10,000 of them, nothing told.

    python benchmarks/grey.py --data FOLDER     # 20 minutes on two idle cores

10,000 training images of MNIST and of Fashion-MNIST, drawn at random, and 10,000 others to measure
on: no test image enters. Each preset as it is, at epsilon 10, but for 20,000 samples. A line of
each goes to `docs/results/grey.jsonl`, the table and a picture of each set into `docs/`. A run that
is there is not done again. `--document` only writes the table anew.
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

from dpdm import evaluate, load_config, open_dataset, pipeline
from dpdm.data import Dataset, write_samples
from dpdm.evaluation import png_bytes, sample_grid
from dpdm.training.run import Run, train

RESULTS, PAGE = ROOT / "docs" / "results", ROOT / "docs" / "results.md"
MARKS = "<!-- written by benchmarks/grey.py -->", "<!-- end of benchmarks/grey.py -->"
SETS = {"mnist": "MNIST", "fashion": "Fashion-MNIST"}
PRESETS = ("own-prior", "own")
IMAGES, SAMPLES, SHOWN = 10_000, 20_000, 6
SETTINGS = ("privacy.epsilon=10", f"sampling.count={SAMPLES}")

Line = dict[str, Any]


def parts(spec: str, work: Path, name: str) -> tuple[Dataset, Dataset]:
    """Images to train on and others to measure on, from the training part of a set."""
    train_file, held_file = (work / f"{name}-{part}.npz" for part in ("train", "held"))
    if not (train_file.is_file() and held_file.is_file()):
        data = open_dataset(spec)
        assert data.private_labels is not None
        order = np.random.default_rng(0).permutation(data.private_count)
        work.mkdir(parents=True, exist_ok=True)
        for file, some in ((train_file, order[:IMAGES]), (held_file, order[-IMAGES:])):
            images, labels = data.private_images[some], data.private_labels[some]
            write_samples(file, images, labels, data.classes)
    return open_dataset(train_file), open_dataset(held_file)


def measure(name: str, preset: str, data: tuple[Dataset, Dataset], folder: Path) -> Line:
    """Trains, samples and evaluates, each where it is not there."""
    real, held = data
    run: Run = train(real, load_config(preset, SETTINGS), folder, resume=folder.exists())
    pipeline.sample_release(run)
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
            SETS[name],
            f"`{preset}`",
            *(f"{100 * line['accuracy'][kind]:.1f}" for kind in ("lr", "mlp", "cnn")),
            f"{line['fd_pixels']:.2f}",
            f"{line['train_seconds']:,.0f}",
            f"{line['sample_seconds']:,.0f}",
        ]
        for name in SETS
        for preset in PRESETS
        if (line := newest.get((name, preset)))
    ]
    last, where = lines[-1], lines[-1]["machine"]
    heads = ("set", "preset", "LR", "MLP", "CNN", "pixel distance", "train, s", "sample, s")
    pictures = [f"![{SETS[name]}: own-prior, own](results/grey-{name}.png)" for name in SETS]
    return "\n\n".join(
        [
            table(heads, rows),
            f"Epsilon {last['epsilon']:.3g}, delta {last['delta']:g}, one run each; "
            f"{where['processor']}, {where['cores']} cores, torch {where['torch']}, commit "
            f"{where['commit']}.",
            *pictures,
        ]
    )


def document(lines: Sequence[Line], page: Path) -> None:
    """Writes the table of the page anew."""
    write_between(page, MARKS, section(lines))


def picture(runs: Sequence[Path]) -> bytes:
    """Samples of the presets side by side, none picked."""
    grids = []
    for folder in runs:
        with np.load(folder / "release" / "samples.npz") as drawn:
            names = tuple(map(str, drawn["classes"]))
            grids.append(
                sample_grid(drawn["images"], drawn["labels"], names, SHOWN, scale=2, gap=2)
            )
    gap = np.full((grids[0].shape[0], 16, *grids[0].shape[2:]), 255, grids[0].dtype)
    return png_bytes(np.concatenate([part for grid in grids for part in (grid, gap)][:-1], axis=1))


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
    if not options.document:
        done = {(line["set"], line["preset"]) for line in lines_so_far(path)}
        for name in SETS:
            spec = name if options.data is None else str(options.data / name)
            data = parts(spec, options.work, name)
            for preset in PRESETS:
                if (name, preset) not in done:
                    append_line(
                        path, measure(name, preset, data, options.work / f"{name}-{preset}")
                    )
            runs = [options.work / f"{name}-{preset}" for preset in PRESETS]
            (RESULTS / f"grey-{name}.png").write_bytes(picture(runs))
    document(read_lines(path), PAGE)


if __name__ == "__main__":
    run_command(main)

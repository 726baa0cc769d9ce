"""A row of the paper, as the paper does it: train, draw with both samplers, evaluate, one line.

    python benchmarks/reproduce.py mnist-eps10 --data FOLDER                    # its 300 epochs
    python benchmarks/reproduce.py mnist-eps10 --data FOLDER --epochs 30 --device cuda --minutes 9 \
        --set views.count=8 views.law=stratified-antithetic
    python benchmarks/reproduce.py --document                                   # only the table

`--epochs` plans the noise for fewer: the promise is the same, the images are worth less, and the
line says how many they were. `--minutes` stops training there, its state saved, with exit status
75: the same command goes on, also on another machine to which `--work` was copied. Samples are
drawn with the preset's settings `accuracy` and `fid`, and evaluated on the real test images; a
line for each goes to `docs/results/paper.jsonl`, and what has its line is not done again. The
table in `docs/reproducing.md` has measured rows, and for the others what they would cost: their
image passes over the throughput that `docs/results/performance.jsonl` has for that network.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from common import (
    RESULTS,
    ROOT,
    append_line,
    find_device,
    lines_so_far,
    machine,
    read_lines,
    run_command,
    table,
    write_between,
)
from recipes import EPSILONS, GREY, open_set, published

from dpdm import Config, Run, load_config, pipeline
from dpdm.data import Dataset, write_samples
from dpdm.evaluation import CLASSIFIER_NAMES, evaluate
from dpdm.training.events import TrainingEvent
from dpdm.training.interrupt import Interrupted
from dpdm.training.run import train

LINES, PAGE = ROOT / "docs" / "results" / "paper.jsonl", ROOT / "docs" / "reproducing.md"
MARKS = "<!-- written by benchmarks/reproduce.py -->", "<!-- end of benchmarks/reproduce.py -->"
ROWS = [f"{name}-eps{epsilon}" for name in GREY for epsilon in EPSILONS]
SAMPLERS = ("accuracy", "fid")
STOPPED = 75
CARDS = {
    "H200": "hours, one H200",
    "H100": "hours, one H100",
    "A100": "hours, one A100",
    "": "hours, two cores",
}

Line = dict[str, Any]


class Clock:
    """A callback that ends training as Ctrl-C would, once its time is over."""

    def __init__(self, minutes: float | None) -> None:
        self.end = None if minutes is None else time.monotonic() + 60 * minutes

    def __call__(self, event: TrainingEvent) -> None:
        if event.record is None:
            print(event.message or "", flush=True)
        elif self.end is not None and time.monotonic() > self.end:
            self.end = None
            os.kill(os.getpid(), signal.SIGINT)


def settings_of(row: str, data: Dataset, epochs: float | None, more: Sequence[str]) -> Config:
    """The preset, its steps those of so many epochs."""
    config = load_config(row, more)
    if epochs is None:
        return config
    steps = max(1, int(epochs * data.public_size / config.training.batch_size))
    return load_config(row, [*more, f"training.steps={steps}"])


def draw(run: Run, sampler: str, device: str) -> tuple[Any, Any, float]:
    """``sampling.count`` images with a named setting, drawn once, and the seconds that took."""
    path, took = run.folder.private / f"samples-{sampler}.npz", f"{sampler}_sampling_seconds"
    if not path.is_file():
        model, started = run.model(), time.perf_counter()
        count, seed = run.config.sampling.count, run.config.training.seed
        images, labels = model.sample(count, settings=sampler, seed=seed, device=device)
        run.folder.update_state(**{took: time.perf_counter() - started})
        write_samples(path, images, labels, model.classes)
    return *pipeline.read_images(path), float(run.folder.read_state()[took])


def measured(run: Run, row: str, sampler: str, data: Dataset, test: Dataset, device: str) -> Line:
    """One line: a run under one of its two samplers."""
    images, labels, seconds = draw(run, sampler, device)
    found = evaluate(
        (images, labels),
        train=data,
        test=test,
        metrics=["classifiers", "fid"],
        features=["pixels"],
        cache=run.folder.private / "cache",
    )
    training, steps = run.config.training, run.folder.read_metrics()
    state = run.folder.read_state()
    return {
        "row": row,
        "sampler": sampler,
        "epsilon": run.statement()["epsilon"],
        "delta": run.config.privacy.delta,
        "epochs": round(training.steps_to_do * training.batch_size / data.public_size, 1),
        "steps": training.steps_to_do,
        "views": f"{run.config.views.count} {run.config.views.law}",
        "images": len(images),
        "image_passes": sum(step["images"] for step in steps),
        "train_hours": round(float(state["training_seconds"]) / 3600, 3),
        "sample_hours": round(seconds / 3600, 3),
        "accuracy": {key: round(value, 4) for key, value in found["accuracy"].items()},
        "fid": found.get("fid"),
        "fd_pixels": round(found["fd-pixels"], 3),
        "machine": machine(),
    }


class Speed(NamedTuple):
    """Of the paper's MNIST preset on a device: image passes a second of a whole DP-SGD step, and
    network evaluations a second when sampling."""

    passes: float
    evaluations: float


def speeds(performance: Sequence[Line]) -> dict[str, Speed]:
    """By the device's name, where both were measured."""
    passes, evaluations = {}, {}
    for line in performance:
        if line["quick"] or line.get("case") != "mnist":
            continue
        device = line["device_name"]
        if line["benchmark"] == "training_step" and line["phase"] == "whole step":
            passes[device] = line["batch_size"] * line["views"] / line["seconds"]["median"]
        if line["benchmark"] == "sampling" and line["sampler"] == "churn" and not line["guidance"]:
            rate = line["evaluations_per_second"]
            evaluations[device] = max(rate, evaluations.get(device, 0.0))
    return {name: Speed(passes[name], evaluations[name]) for name in passes if name in evaluations}


def hours(config: Config, sampler: str, speed: Speed | None) -> str:
    """Of training and of sampling; or that nobody has measured."""
    if speed is None:
        return "not measured"
    drawn = config.sampling.alternatives[sampler]
    each = (2 * drawn.steps - 1) * (2 if drawn.guidance else 1)
    training = config.image_passes / speed.passes / 3600
    sampling = config.sampling.count * each / speed.evaluations / 3600
    return " + ".join(f"{x:,.0f}" if x >= 10 else f"{x:.1f}" for x in (training, sampling))


def section(lines: Sequence[Line], measured_speeds: Mapping[str, Speed]) -> str:
    """The generated part of the page: a line for each row and sampler."""
    rows = []
    for row in ROWS:
        name, _, epsilon = row.partition("-eps")
        config = load_config(row)
        for sampler in SAMPLERS:
            paper = published(name, epsilon, sampler)
            assert paper is not None
            about = [row, sampler, f"{paper.fid:g}; {_percent(paper.accuracy)}"]
            own = [line for line in lines if (line["row"], line["sampler"]) == (row, sampler)]
            rows += [[*about, *_cells(line)] for line in own]
            if not own:
                costs = [hours(config, sampler, _of(measured_speeds, card)) for card in CARDS]
                rows.append([*about, "not run", f"{config.image_passes:,}", *costs])
    header = ("row", "sampler", "paper: FID; LR MLP CNN", "here", "image passes", *CARDS.values())
    return table(header, rows)


def _of(measured_speeds: Mapping[str, Speed], device: str) -> Speed | None:
    """Of a card by its name; of a processor where that is empty."""
    for name, speed in measured_speeds.items():
        if device in name if device else not any(card and card in name for card in CARDS):
            return speed
    return None


def _percent(accuracy: Mapping[str, float]) -> str:
    return " ".join(f"{100 * accuracy[name]:.1f}" for name in CLASSIFIER_NAMES)


def _cells(line: Line) -> list[str]:
    fid = "no Inception at hand" if line["fid"] is None else f"{line['fid']:.3g}"
    spent = f"{line['epochs']:g} epochs, {line['views']} views, {line['images']:,} samples"
    cost = f"{line['train_hours']:.2f} + {line['sample_hours']:.2f}"
    places = [cost if card and card in line["device"] else "" for card in CARDS]
    if not any(places):
        places[-1] = f"{cost} ({line['device']})"
    return [f"{fid}; {_percent(line['accuracy'])} ({spent})", f"{line['image_passes']:,}", *places]


def document(lines: Sequence[Line], page: Path, performance: Sequence[Line]) -> None:
    """Writes the table of the page anew."""
    write_between(page, MARKS, section(lines, speeds(performance)))


def main() -> None:
    """Does what is missing of a row, and writes line and table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("row", nargs="?", choices=ROWS)
    parser.add_argument("--data", type=Path, help="folder that holds mnist/ and fashion/")
    parser.add_argument("--work", type=Path, default=Path("runs/reproduce"), help="the runs")
    parser.add_argument("--epochs", type=float, help="fewer than the paper's")
    parser.add_argument("--minutes", type=float, help="stop training after so many")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--samplers", nargs="+", choices=SAMPLERS, default=SAMPLERS)
    parser.add_argument("--set", nargs="*", default=[], help="other settings; the line says them")
    parser.add_argument("--lines", type=Path, default=LINES)
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--document", action="store_true")
    options = parser.parse_args()
    lines = lines_so_far(options.lines)
    if not options.document:
        if options.row is None:
            parser.error("which row? " + ", ".join(ROWS))
        lines += reproduce(options, lines)
    document(lines, options.page, read_lines(RESULTS))


def reproduce(options: argparse.Namespace, lines: Sequence[Line]) -> list[Line]:
    """Trains from where it was left, and measures what has no line yet."""
    row = options.row
    device, device_name = find_device(options.device)
    data, test = open_set(row.partition("-")[0], options.data)
    config = settings_of(row, data, options.epochs, options.set)
    command = f"python benchmarks/reproduce.py {row} --data FOLDER"
    command += f" --epochs {options.epochs:g}" if options.epochs else ""
    command += f" --set {' '.join(options.set)}" if options.set else ""
    folder = options.work / f"{row}-{hashlib.sha256(command.encode()).hexdigest()[:8]}"
    clock = Clock(options.minutes)
    try:
        run = train(data, config, folder, resume=folder.is_dir(), device=device, callback=clock)
    except Interrupted as stopped:
        print(stopped, flush=True)
        sys.exit(STOPPED)
    made = []
    for sampler in options.samplers:
        if any((line["command"], line["sampler"]) == (command, sampler) for line in lines):
            continue
        line = measured(run, row, sampler, data, test, device)
        line |= {"device": device_name, "command": command}
        print(json.dumps(line), flush=True)
        append_line(options.lines, line)
        made.append(line)
    return made


if __name__ == "__main__":
    run_command(main)

"""What the prior alone is worth: presets `mnist-cpu-eps*` and `fashion-cpu-eps*`.

    python benchmarks/prior.py --data /path/to/sets --threads 1     # 90 minutes on one thread

Each preset is trained, sampled (60,000 images) and measured by the paper's three classifiers on the
real test images, `--seeds` times with noise from the operating system. Lines are appended to
`docs/results/prior.jsonl` one by one, what is there for the same code is not done again, and the
section between the markers of `docs/results.md` is written from them, with a picture of each set.
`--held-out` keeps 10,000 training images out of the fit and measures on those instead, and writes
nothing: settings are chosen that way, never on the test images. `--document` only writes the page.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dpdm import load_config, open_dataset, pipeline
from dpdm.data import Dataset
from dpdm.evaluation import evaluate, png_bytes, sample_grid
from dpdm.training import train

SETS = {"mnist": "MNIST", "fashion": "Fashion-MNIST"}
EPSILONS = ("10", "1", "0.2")
BEGIN, END = "<!-- written by benchmarks/prior.py -->", "<!-- end of benchmarks/prior.py -->"
_HELD_OUT = 10_000
_GOALS = {
    "mnist": {"10": 97.5, "1": 97.0, "0.2": 96.3},
    "fashion": {"10": 83.5, "1": 81.7, "0.2": 77.0},
}
_PAPER = {
    "mnist": {"10": 98.1, "1": 95.3, "0.2": 86.3},
    "fashion": {"10": 86.2, "1": 79.4, "0.2": 72.3},
}

Line = dict[str, Any]


def held_out(data: Dataset) -> tuple[Dataset, Dataset]:
    """The training images without 10,000 of them, and these."""
    assert data.private_labels is not None
    order = np.random.default_rng(0).permutation(data.private_count)
    first, second = (
        replace(
            data,
            public_size=len(chosen),
            private_images=data.private_images[chosen],
            private_labels=data.private_labels[chosen],
        )
        for chosen in (order[_HELD_OUT:], order[:_HELD_OUT])
    )
    return first, second


def measure(
    name: str, epsilon: str, seed: int, data: Dataset, test: Dataset, settings: Sequence[str]
) -> tuple[Line, tuple[Any, Any]]:
    """One preset: fitted, sampled, measured. Seconds are of this process, and by the clock."""
    config = load_config(f"{name}-cpu-eps{epsilon}", [f"training.seed={seed}", *settings])
    with tempfile.TemporaryDirectory() as folder:
        clocks = [(time.process_time(), time.perf_counter())]
        run = train(data, config, Path(folder) / "run", device="cpu")
        clocks.append((time.process_time(), time.perf_counter()))
        pipeline.sample_release(run)
        clocks.append((time.process_time(), time.perf_counter()))
        images, labels = pipeline.read_samples(run)
        spent = run.statement()["epsilon"]
        size = (run.release / "model.safetensors").stat().st_size
    result = evaluate((images, labels), train=data, test=test)
    (fit, fit_clock), (draw, draw_clock) = (
        (after[0] - before[0], after[1] - before[1]) for before, after in pairwise(clocks)
    )
    line = {
        "set": name,
        "epsilon": epsilon,
        "spent": spent,
        "seed": seed,
        "images": len(images),
        "settings": list(settings),
        "fit_seconds": round(fit, 1),
        "sample_seconds": round(draw, 1),
        "clock_seconds": round(fit_clock + draw_clock, 1),
        "model_bytes": size,
        "accuracy": {key: round(value, 4) for key, value in result["accuracy"].items()},
    }
    return line, (images, labels)


def table(lines: Sequence[Line], name: str) -> list[str]:
    """Markdown rows of a set: one an epsilon."""
    rows = [
        "| epsilon | runs | LR | MLP | CNN | CNN, goal | CNN, paper | fit, s | 60,000 samples, s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for epsilon in EPSILONS:
        found = [line for line in lines if (line["set"], line["epsilon"]) == (name, epsilon)]
        if not found:
            continue
        cells = [epsilon, str(len(found))]
        for classifier in ("lr", "mlp", "cnn"):
            values = [100 * line["accuracy"][classifier] for line in found]
            spread = f" ({min(values):.1f} to {max(values):.1f})" if len(values) > 1 else ""
            cells.append(f"{statistics.median(values):.1f}{spread}")
        cells += [f"{_GOALS[name][epsilon]}", f"{_PAPER[name][epsilon]}"]
        for key in ("fit_seconds", "sample_seconds"):
            cells.append(f"{statistics.median(line[key] for line in found):.0f}")
        rows.append(f"| {' | '.join(cells)} |")
    return rows


def section(lines: Sequence[Line]) -> str:
    """The generated part of ``docs/results.md``."""
    parts = [BEGIN]
    for name, title in SETS.items():
        if any(line["set"] == name for line in lines):
            parts += ["", f"**{title}**", "", *table(lines, name)]
            parts += ["", f"![{title}, the prior alone](results/prior-{name}.png)"]
    return "\n".join([*parts, "", END])


def document(lines: Sequence[Line], page: Path) -> None:
    """Writes the section between the markers of ``page``."""
    text = page.read_text("utf-8")
    before, after = text.index(BEGIN), text.index(END) + len(END)
    page.write_text(text[:before] + section(lines) + text[after:], "utf-8")


def read(path: Path) -> list[Line]:
    """The lines measured so far."""
    return (
        [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        if path.is_file()
        else []
    )


def picture(images: Any, labels: Any, data: Dataset, path: Path) -> None:
    """Ten samples a class, not picked."""
    grid = sample_grid(images, labels, data.classes, 10, scale=2, gap=2)
    path.write_bytes(png_bytes(grid))


def main() -> None:
    """Measures what is missing and writes lines, pictures and the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder that holds mnist/ and fashion/")
    parser.add_argument("--out", type=Path, default=Path("docs/results"))
    parser.add_argument("--only", nargs="*", help="for example mnist-10 fashion-0.2")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--held-out", action="store_true")
    parser.add_argument("--document", action="store_true")
    parser.add_argument("--set", nargs="*", default=[], help="settings of trials, with --held-out")
    options = parser.parse_args()
    if options.set and not options.held_out:
        parser.error("--set is for trials: add --held-out")
    torch.set_num_threads(options.threads)
    results, page = options.out / "prior.jsonl", options.out.parent / "results.md"
    rows = [(name, e, seed) for seed in range(options.seeds) for e in EPSILONS for name in SETS]
    for name, epsilon, seed in [] if options.document else rows:
        done = {(line["set"], line["epsilon"], line["seed"]) for line in read(results)}
        wanted = not options.only or f"{name}-{epsilon}" in options.only
        if not wanted or (not options.held_out and (name, epsilon, seed) in done):
            continue
        spec = str(options.data / name) if options.data else name
        data, test = open_dataset(spec), open_dataset(f"{spec}@test")
        if options.held_out:
            data, test = held_out(data)
        line, (images, labels) = measure(name, epsilon, seed, data, test, options.set)
        print(json.dumps(line), flush=True)
        if not options.held_out:
            with results.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line) + "\n")
            if (epsilon, seed) == ("1", 0):
                picture(images, labels, data, options.out / f"prior-{name}.png")
    if not options.held_out:
        document(read(results), page)


if __name__ == "__main__":
    main()

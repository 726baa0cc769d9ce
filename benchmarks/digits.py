"""What each stage of a run is worth on the digits: prior alone, after warm-up, after DP-SGD.

    python benchmarks/digits.py --out docs/results      # about 12 minutes on two cores

Runs the preset `digits` three times at epsilon 10 and at 1, and once with the paper's base and a
warm-up on samples of the prior, each with noise from the operating system; prints Markdown tables
and writes a picture of the stages. A finished run is not done again: delete its folder to repeat.
"""

from __future__ import annotations

import argparse
import json
import statistics
from pathlib import Path

import numpy as np

from dpdm import load_config, open_dataset, pipeline
from dpdm.evaluation import png_bytes, sample_grid
from dpdm.training import Run, open_run, train

VARIANTS = {
    "the preset": (),
    "paper's base, warmed up on the prior": (
        "diffusion.base=skip",
        "warmup.steps=1500",
        "warmup.batch_size=256",
    ),
}
ROWS = (("the preset", 10, 3), ("the preset", 1, 3), (*list(VARIANTS)[1:], 10, 1))


def finished(path: Path, epsilon: float, settings: tuple[str, ...], repeat: int) -> Run:
    """The run in ``path``, made if it is not there."""
    config = load_config(
        "digits", [f"privacy.epsilon={epsilon}", f"training.seed={repeat}", *settings]
    )
    data = open_dataset("digits")
    if not (path / "private" / "evaluation.json").is_file():
        run = train(data, config, path, resume=path.exists())
        pipeline.sample_release(run)
        pipeline.evaluate_run(run, data, open_dataset("digits@test"))
        pipeline.write_reports(run)
    return open_run(path)


def table(runs: list[Run]) -> list[str]:
    """Markdown rows: accuracy of each stage, median and range over the runs."""
    stages: dict[str, list[dict[str, float]]] = {}
    for run in runs:
        for entry in (pipeline.read_evaluation(run) or {})["stages"]:
            stages.setdefault(entry["name"], []).append(entry)
    rows = []
    for name, entries in stages.items():
        cells = []
        for classifier in ("lr", "mlp", "cnn"):
            values = [100 * entry[classifier] for entry in entries]
            cells.append(
                f"{statistics.median(values):.1f} ({min(values):.1f} to {max(values):.1f})"
            )
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return rows


def picture(run: Run, path: Path) -> None:
    """The stages of a run side by side, six images a class."""
    grids = []
    for entry in (pipeline.read_evaluation(run) or {})["stages"]:
        file = pipeline.stage_file(run, entry["name"])
        with np.load(file) as arrays:
            names = run.model().classes
            grids.append(sample_grid(arrays["images"], arrays["labels"], names, 6, scale=5, gap=3))
    gap = np.full((grids[0].shape[0], 24, 3), 255, np.uint8)
    parts = [part for grid in grids for part in (grid, gap)][:-1]
    path.write_bytes(png_bytes(np.concatenate(parts, axis=1)))


def main() -> None:
    """Runs what is missing, then prints and writes the tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/results"), help="pictures and lines")
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmark-digits"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    lines = []
    for variant, epsilon, repeats in ROWS:
        number, settings = list(VARIANTS).index(variant), VARIANTS[variant]
        folders = [options.runs / f"{number}-eps{epsilon}-{repeat}" for repeat in range(repeats)]
        runs = [
            finished(folder, epsilon, settings, repeat) for repeat, folder in enumerate(folders)
        ]
        seconds = statistics.median(run.folder.read_state()["training_seconds"] for run in runs)
        print(f"\n{variant}, epsilon {epsilon}, {repeats} runs, training {seconds:.0f} s\n")
        print("| stage | LR | MLP | CNN |\n|---|---|---|---|")
        print("\n".join(table(runs)), flush=True)
        picture(runs[0], options.out / f"digits-{number}-eps{epsilon}.png")
        for run in runs:
            measured = pipeline.read_evaluation(run) or {}
            line = {"variant": variant, "epsilon": run.statement()["epsilon"], "seconds": seconds}
            lines.append(line | {key: measured[key] for key in ("accuracy", "stages")})
    (options.out / "digits.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


if __name__ == "__main__":
    main()

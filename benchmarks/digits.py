"""What each stage of a run is worth on the digits: prior alone, after warm-up, after DP-SGD.

    python benchmarks/digits.py --out docs/results      # about 12 minutes on two cores

Runs the preset `digits` three times at epsilon 10 and at 1, and once with the paper's base and a
warm-up on samples of the prior, each with noise from the operating system; writes lines, a picture
of the stages and, between their marks in `docs/results.md`, the tables. A finished run is not done
again: delete its folder to repeat. `--document` only writes the tables anew from the lines.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import median_and_range, read_lines, run_command, write_between
from pictures import side_by_side

from dpdm import load_config, open_dataset, pipeline
from dpdm.evaluation import sample_grid
from dpdm.training.run import Run, open_run, train

Line = dict[str, Any]

VARIANTS = {
    "the preset": (),
    "paper's base, warmed up on the prior": (
        "diffusion.base=skip",
        "warmup.steps=1500",
        "warmup.batch_size=256",
    ),
}
BEGIN, END = "<!-- written by benchmarks/digits.py -->", "<!-- end of benchmarks/digits.py -->"
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


def table(lines: Sequence[Line]) -> list[str]:
    """Markdown rows: accuracy of each stage, median and range over the runs."""
    stages: dict[str, list[dict[str, float]]] = {}
    for line in lines:
        for entry in line["stages"]:
            stages.setdefault(entry["name"], []).append(entry)
    rows = ["| stage | LR | MLP | CNN |", "|---|---|---|---|"]
    for name, entries in stages.items():
        cells = []
        for classifier in ("lr", "mlp", "cnn"):
            values = [100 * entry[classifier] for entry in entries]
            cells.append(median_and_range(values))
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return rows


def section(lines: Sequence[Line]) -> str:
    """The generated part of the page: a table and a picture for each variant and epsilon."""
    parts = []
    for variant, epsilon, _ in ROWS:
        found = [
            line
            for line in lines
            if line["variant"] == variant and round(line["epsilon"], 3) == epsilon
        ]
        if not found:
            continue
        title = f"{variant[0].upper()}{variant[1:]}, epsilon {epsilon}"
        many = f"{len(found)} runs" if len(found) > 1 else "one run"
        stages = ", ".join(stage["name"] for stage in found[0]["stages"])
        file = f"digits-{list(VARIANTS).index(variant)}-eps{epsilon}.png"
        heading = f"**{title}** ({many}, training takes {found[0]['seconds']:.3g} s)"
        rows = "\n".join(table(found))
        parts.append(f"{heading}\n\n{rows}\n\n![{title}: {stages}](results/{file})")
    return "\n\n".join(parts)


def document(lines: Sequence[Line], page: Path) -> None:
    """Writes the section between the marks of ``page``."""
    write_between(page, (BEGIN, END), section(lines))


def picture(run: Run, path: Path) -> None:
    """The stages of a run side by side, six images a class."""
    grids = []
    for entry in (pipeline.read_evaluation(run) or {})["stages"]:
        file = pipeline.stage_file(run, entry["name"])
        with np.load(file) as arrays:
            names = run.model().classes
            grids.append(sample_grid(arrays["images"], arrays["labels"], names, 6, scale=5, gap=3))
    path.write_bytes(side_by_side(grids, gap=24))


def main() -> None:
    """Runs what is missing, then writes lines, pictures and tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs/results"), help="pictures and lines")
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmark-digits"))
    parser.add_argument("--document", action="store_true", help="only write the tables anew")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    results, page = options.out / "digits.jsonl", options.out.parent / "results.md"
    if options.document:
        document(read_lines(results), page)
        return
    lines = []
    for variant, epsilon, repeats in ROWS:
        number, settings = list(VARIANTS).index(variant), VARIANTS[variant]
        folders = [options.runs / f"{number}-eps{epsilon}-{repeat}" for repeat in range(repeats)]
        runs = [
            finished(folder, epsilon, settings, repeat) for repeat, folder in enumerate(folders)
        ]
        seconds = statistics.median(run.folder.read_state()["training_seconds"] for run in runs)
        picture(runs[0], options.out / f"digits-{number}-eps{epsilon}.png")
        for run in runs:
            measured = pipeline.read_evaluation(run) or {}
            line = {"variant": variant, "epsilon": run.statement()["epsilon"], "seconds": seconds}
            lines.append(line | {key: measured[key] for key in ("accuracy", "stages")})
    results.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    document(lines, page)
    print(section(lines))


if __name__ == "__main__":
    run_command(main)

"""Table 2 of the paper on the digits: synthetic images beside DP-SGD on the real ones.

    python benchmarks/baselines.py      # about 25 minutes on two quiet cores

At epsilon 0.2, 1 and 10, three times each: a run of the preset `digits`, LR, MLP and CNN trained on
its samples, and the same three trained with DP-SGD on the real training images at the same epsilon
and delta. Lines go to `docs/results/baselines-digits.jsonl` as they are measured, the table into
`docs/results.md`. What is done is not done again: delete the runs' folder to repeat. `--document`
only writes the table anew from the lines.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
from pathlib import Path
from typing import Any

import torch
from common import ROOT, machine, read_lines, write_between
from common import table as markdown

from dpdm import load_config, open_dataset, pipeline
from dpdm.evaluation import CLASSIFIER_NAMES, Baseline, evaluate
from dpdm.training import train

EPSILONS = (0.2, 1.0, 10.0)
REPEATS = 3
LINES = ROOT / "docs" / "results" / "baselines-digits.jsonl"
PAGE = ROOT / "docs" / "results.md"
BEGIN, END = "<!-- baselines-digits -->", "<!-- /baselines-digits -->"


def compared(folder: Path, epsilon: float, repeat: int) -> dict[str, Any]:
    """One run of the preset and its comparison, made where it is not there yet."""
    data, test = open_dataset("digits"), open_dataset("digits@test")
    config = load_config("digits", [f"privacy.epsilon={epsilon}", f"training.seed={repeat}"])
    run = train(data, config, folder, resume=folder.exists())
    pipeline.sample_release(run)
    private = run.folder.private
    result = evaluate(
        pipeline.read_samples(run),
        train=data,
        test=test,
        seed=repeat,
        baseline=Baseline(epsilon, config.privacy.delta, private / "baselines"),
        cache=private / "cache",
    )
    return {
        "epsilon": epsilon,
        "repeat": repeat,
        "delta": config.privacy.delta,
        "epsilon_of_the_run": run.statement()["epsilon"],
        "synthetic": result["accuracy"],
        "baseline": result["baseline"],
        "seconds": result["seconds"],
        "training_seconds": run.folder.read_state()["training_seconds"],
    }


def section(lines: list[dict[str, Any]]) -> str:
    """The generated part of the page: a row for each epsilon and classifier."""
    rows = []
    for epsilon in sorted({line["epsilon"] for line in lines}):
        own = [line for line in lines if line["epsilon"] == epsilon]
        for name in CLASSIFIER_NAMES:
            synthetic = [100 * line["synthetic"][name] for line in own]
            private = [100 * line["baseline"]["accuracy"][name] for line in own]
            difference = statistics.mean(synthetic) - statistics.mean(private)
            cells = [_mean(synthetic), _mean(private), f"{difference:+.1f}"]
            rows.append([f"{epsilon:g}", name.upper(), str(len(own)), *cells])
    header = ("epsilon", "classifier", "runs", "synthetic", "DP-SGD on real", "difference")
    made = lines[0]["machine"]
    return (
        f"{markdown(header, rows)}\n\n"
        f"{made['processor']}, {lines[0]['threads']} thread, torch {made['torch']}, commit "
        f"{made['commit']}."
    )


def _mean(values: list[float]) -> str:
    mean = f"{statistics.mean(values):.1f}"
    return f"{mean} ± {statistics.stdev(values):.1f}" if len(values) > 1 else mean


def write(lines: list[dict[str, Any]], page: Path) -> None:
    """Puts the table between its marks on the page."""
    write_between(page, (BEGIN, END), section(lines))


def main() -> None:
    """Measures what is missing, then writes lines and table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmark-baselines"))
    parser.add_argument("--lines", type=Path, default=LINES)
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--document", action="store_true", help="only write the table anew")
    options = parser.parse_args()
    if options.document:
        write(read_lines(options.lines), options.page)
        return
    torch.set_num_threads(options.threads)
    where = {"threads": options.threads, "machine": machine()}
    lines: list[dict[str, Any]] = []
    for repeat in range(REPEATS):
        for epsilon in EPSILONS:
            folder = options.runs / f"eps{epsilon:g}-{repeat}"
            lines.append(compared(folder, epsilon, repeat) | where)
            print(json.dumps(lines[-1]["synthetic"]), lines[-1]["baseline"]["accuracy"], flush=True)
            options.lines.write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    write(lines, options.page)


if __name__ == "__main__":
    main()

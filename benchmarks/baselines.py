"""Table 2 of the paper: synthetic images beside DP-SGD on the real ones.

    python benchmarks/baselines.py                              # digits: 25 minutes
    python benchmarks/baselines.py mnist fashion --data FOLDER

At epsilon 0.2, 1 and 10: LR, MLP and CNN trained on samples of our own preset, and the same three
trained with DP-SGD on the real training images at the same epsilon and delta. Of the digits three
runs of the preset are made for it; of MNIST and Fashion-MNIST the synthetic side is the row "the
preset" of `benchmarks/recipes.py`, which the table needs, and the real side is trained once. Lines
go to `docs/results/baselines-SET.jsonl` as they are measured, tables into `docs/results.md`. What
has its line is not done again: delete line and run to repeat. `--document` only writes the tables
anew from the lines.
"""

from __future__ import annotations

import argparse
import os
import statistics
from pathlib import Path
from typing import Any

import recipes
import torch
from common import ROOT, append_line, lines_so_far, machine, read_lines, run_command, write_between
from common import table as markdown

from dpdm import load_config, open_dataset, pipeline
from dpdm.evaluation import CLASSIFIER_NAMES, Baseline, evaluate
from dpdm.evaluation.baselines import measure_baseline
from dpdm.evaluation.classification import Protocol
from dpdm.evaluation.published import published_figures
from dpdm.training.run import train

EPSILONS = (0.2, 1.0, 10.0)
REPEATS = {"digits": 3, "mnist": 1, "fashion": 1}
RESULTS = ROOT / "docs" / "results"
PAGE = ROOT / "docs" / "results.md"

Line = dict[str, Any]


def lines_of(name: str) -> Path:
    """The result lines of a set."""
    return RESULTS / f"baselines-{name}.jsonl"


def of_digits(folder: Path, epsilon: float, repeat: int) -> Line:
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


def of_recipe(name: str, data: Path | None, folder: Path, epsilon: float, repeat: int) -> Line:
    """DP-SGD on the real images, to stand beside a row of `benchmarks/recipes.py`."""
    of_the_preset(name, epsilon)  # without it there is nothing to stand beside
    config = load_config(f"{name}-cpu-eps{epsilon:g}")
    private = measure_baseline(
        Baseline(epsilon, config.privacy.delta, folder),
        *recipes.open_set(name, data, recipes.GREY[name]),
        Protocol(CLASSIFIER_NAMES, seeds=1, seed=repeat),
        lambda what, done, total: print(f"{what}: {done} of {total}", end="\r", flush=True),
    )
    return {
        "epsilon": epsilon,
        "repeat": repeat,
        "delta": config.privacy.delta,
        "baseline": private,
    }


def of_the_preset(name: str, epsilon: float) -> dict[str, float]:
    """Accuracies of the preset's row in `recipes.py`, medians over the runs that are there.

    Of samples as they were drawn, where there are such runs: the table was made beside them.
    """
    lines, stages = lines_so_far(RESULTS / "recipes.jsonl"), (recipes.AS_DRAWN, recipes.PRESET)
    found = recipes.lines_of(lines, name, f"{epsilon:g}", *stages)
    rows = [row["accuracy"] for row in found]
    if not rows:
        raise SystemExit(
            f"error: no row of the preset for {name} at epsilon {epsilon:g}; first run "
            f"benchmarks/recipes.py --only {name}-{epsilon:g} --stage preset"
        )
    return {key: statistics.median(row[key] for row in rows) for key in CLASSIFIER_NAMES}


def synthetic(name: str, line: Line) -> dict[str, float]:
    """Accuracies on synthetic images beside a line: its own, or the preset's."""
    own: dict[str, float] | None = line.get("synthetic")
    return own or of_the_preset(name, line["epsilon"])


def published(name: str, epsilon: float, classifier: str) -> str:
    """The paper's figure for DP-SGD on the real images, where it has one."""
    rows = published_figures(recipes.GREY.get(name, name), epsilon)
    found = [row.accuracy[classifier] for row in rows if row.table == "Table 2"]
    return f"{100 * found[0]:.1f}" if found else ""


def section(lines: list[Line], name: str) -> str:
    """The generated part of the page: a row for each epsilon and classifier."""
    rows = []
    for epsilon in sorted({line["epsilon"] for line in lines}):
        own = [line for line in lines if line["epsilon"] == epsilon]
        beside = [synthetic(name, line) for line in own]
        for classifier in CLASSIFIER_NAMES:
            ours = [100 * accuracy[classifier] for accuracy in beside]
            private = [100 * line["baseline"]["accuracy"][classifier] for line in own]
            difference = statistics.mean(ours) - statistics.mean(private)
            cells = [_mean(ours), _mean(private), f"{difference:+.1f}"]
            paper = published(name, epsilon, classifier)
            rows.append([f"{epsilon:g}", classifier.upper(), str(len(own)), *cells, paper])
    columns = ("epsilon", "classifier", "runs", "synthetic", "DP-SGD on real", "difference")
    header = (*columns, "the paper's DP-SGD")
    if not any(row[-1] for row in rows):
        header, rows = columns, [row[:-1] for row in rows]
    made = lines[0]["machine"]
    commits = ", ".join(dict.fromkeys(line["machine"]["commit"] for line in lines))
    return (
        f"{markdown(header, rows)}\n\n"
        f"{made['processor']}, {lines[0]['threads']} thread, torch {made['torch']}, commit "
        f"{commits}."
    )


def _mean(values: list[float]) -> str:
    mean = f"{statistics.mean(values):.1f}"
    return f"{mean} ± {statistics.stdev(values):.1f}" if len(values) > 1 else mean


def write(lines: list[Line], page: Path, name: str = "digits") -> None:
    """Puts a set's table between its marks on the page."""
    marks = f"<!-- baselines-{name} -->", f"<!-- /baselines-{name} -->"
    write_between(page, marks, section(lines, name))


def measure(name: str, options: argparse.Namespace) -> None:
    """Measures a set's missing rows, then writes lines and table."""
    path = lines_of(name)
    lines = lines_so_far(path)
    done = {(line["epsilon"], line["repeat"]) for line in lines}
    for repeat in range(REPEATS[name]):
        for epsilon in EPSILONS:
            if (epsilon, repeat) in done:
                continue
            folder = options.runs / f"{name}-eps{epsilon:g}-{repeat}"
            if name == "digits":
                made = of_digits(folder, epsilon, repeat)
            else:
                made = of_recipe(name, options.data, folder, epsilon, repeat)
            lines.append(made | {"threads": options.threads, "machine": machine()})
            print(name, epsilon, made["baseline"]["accuracy"], flush=True)
            append_line(path, lines[-1])
    write(lines, options.page, name)


def main() -> None:
    """Measures what is missing, then writes lines and tables."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("sets", nargs="*", default=["digits"], help="digits, mnist, fashion")
    parser.add_argument("--data", type=Path, help="folder that holds mnist/ and fashion/")
    parser.add_argument("--runs", type=Path, default=Path("runs/benchmark-baselines"))
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--document", action="store_true", help="only write the tables anew")
    options = parser.parse_args()
    if options.document:
        for name in REPEATS:
            if lines_of(name).is_file():
                write(read_lines(lines_of(name)), options.page, name)
        return
    if unknown := set(options.sets) - set(REPEATS):
        parser.error(f"{', '.join(sorted(unknown))}: no such set; {', '.join(REPEATS)}")
    torch.set_num_threads(options.threads)
    for name in options.sets:
        measure(name, options)


if __name__ == "__main__":
    run_command(main)

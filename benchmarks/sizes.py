"""How many images it takes: the preset `own-prior` on parts of MNIST and Fashion-MNIST.

    python benchmarks/sizes.py --data FOLDER --work runs/sizes      # an hour and a half on one core

Trains `own-prior` on so many training images, drawn at random once for each size, as a person would
who has no more: the count is public, nothing else of the data. Beside the preset as it is stands
the preset told what is public about such images (`KNOWLEDGE`), and, for what no privacy would give,
the real images themselves. The paper's three classifiers learn from 10,000 samples, or from the
real images, and are tested on the real test images, once each. Lines go to
`docs/results/sizes.jsonl` one by one, what is there is not measured again, and the table of
`docs/results.md` is written from them (`--document`: only that).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import (
    ROOT,
    append_line,
    lines_so_far,
    machine,
    run_command,
    table,
    write_between,
)
from recipes import GREY, open_set, part

from dpdm import load_config
from dpdm.data import Dataset
from dpdm.evaluation import evaluate
from dpdm.training.run import train

RESULTS, PAGE = ROOT / "docs" / "results" / "sizes.jsonl", ROOT / "docs" / "results.md"
MARKS = "<!-- written by benchmarks/sizes.py -->", "<!-- end of benchmarks/sizes.py -->"
SIZES = (300, 1_000, 5_000)
SAMPLES = 10_000
OWN, TOLD, REAL = "own-prior", "told what is public", "real images"
KNOWLEDGE = {
    "mnist": ("prior.normalise=affine", "prior.augment=1"),
    "fashion": ("prior.normalise=brightness", "prior.texture=true"),
}
CASES = [(OWN, "10"), (TOLD, "10"), (TOLD, "1"), (REAL, "")]
"""Stages and epsilons, in the table's order."""

Line = dict[str, Any]


def row_of(line: Line) -> tuple[str, int, str, str]:
    """What a line measured: set, size, stage, epsilon."""
    return line["set"], line["size"], line["stage"], line["epsilon"]


def measured(
    name: str, size: int, stage: str, epsilon: str, data: Dataset, test: Dataset, work: Path
) -> Line:
    """One row: a run from where it was left, its samples, and what they are worth."""
    picked = np.random.default_rng(size).choice(data.private_count, size, replace=False)
    few = part(data, picked)
    line: Line = {"set": name, "size": size, "stage": stage, "epsilon": epsilon}
    if stage == REAL:
        assert few.private_labels is not None
        pair = few.private_images, few.private_labels
    else:
        told = KNOWLEDGE[name] if stage == TOLD else ()
        config = load_config("own-prior", [f"privacy.epsilon={epsilon}", *told])
        folder = work / f"{name}-{size}-{stage.replace(' ', '-')}-{epsilon}"
        run = train(few, config, folder, resume=folder.is_dir())
        pair = run.model().sample(SAMPLES, seed=0)
        line["spent"] = run.statement()["epsilon"]
        line["train_seconds"] = round(float(run.folder.read_state()["training_seconds"]), 1)
    result = evaluate(pair, test=test)
    accuracy = {key: round(value, 4) for key, value in result["accuracy"].items()}
    return {**line, "images": len(pair[0]), "accuracy": accuracy, "machine": machine()}


def document(lines: Sequence[Line], page: Path) -> None:
    """Writes the section between the markers of ``page``: CNN and, in brackets, MLP."""
    found = {row_of(line): line for line in lines}

    def cell(name: str, size: int, stage: str, epsilon: str) -> str:
        line = found.get((name, size, stage, epsilon))
        if line is None:
            return ""
        cnn, mlp = (100 * line["accuracy"][name] for name in ("cnn", "mlp"))
        return f"{cnn:.1f} ({mlp:.1f})"

    header = ["images", *(f"{stage}, {eps}" if eps else stage for stage, eps in CASES)]
    parts = []
    for name, title in GREY.items():
        sizes = [size for size in SIZES if any((name, size, *case) in found for case in CASES)]
        if not sizes:
            continue
        rows = [[f"{size:,}", *(cell(name, size, *case) for case in CASES)] for size in sizes]
        parts.append(f"**{title}**\n\n{table(header, rows)}")
    write_between(page, MARKS, "\n\n".join(parts))


def main() -> None:
    """Measures what is missing and writes lines and the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, help="folder that holds mnist/ and fashion/")
    parser.add_argument("--work", type=Path, default=Path("runs/sizes"), help="the runs")
    parser.add_argument("--out", type=Path, default=RESULTS, help="another file measures all anew")
    parser.add_argument("--only", choices=GREY, help="one set; both, where none is named")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--document", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    known = {row_of(line) for line in lines_so_far(options.out)}
    rows = [
        (name, size, *case)
        for size, name, case in product(SIZES, GREY, CASES)
        if options.only in (None, name)
    ]
    for name, size, stage, epsilon in [] if options.document else rows:
        if (name, size, stage, epsilon) in known:
            continue
        sets = open_set(name, options.data, GREY[name])
        line = measured(name, size, stage, epsilon, *sets, options.work)
        print(json.dumps(line), flush=True)
        append_line(options.out, line)
    if options.out == RESULTS:
        document(lines_so_far(RESULTS), PAGE)


if __name__ == "__main__":
    run_command(main)

"""Real images in place of synthetic ones: what the protocol itself loses, and its cost.

    python benchmarks/protocol.py --data mnist --images 60000
    python benchmarks/protocol.py --data mnist --images 10000

Trains LR, MLP and CNN on so many real training images, just as they are trained on synthetic ones,
and tests them on the real test set; prints accuracy, seconds of wall and processor, and peak
memory, and appends them to `docs/results/protocol.jsonl`, from which a table of `docs/results.md`
is written (`--document`: only that). The same by the command line, for all training images:
`dpdm evaluate mnist --test mnist@test`.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from common import ROOT, append_line, lines_so_far, machine, peak_memory, table, write_between

from dpdm import open_dataset
from dpdm.evaluation import CLASSIFIER_NAMES, evaluate

PAGE = ROOT / "docs" / "results.md"
MARKS = "<!-- written by benchmarks/protocol.py -->", "<!-- end of benchmarks/protocol.py -->"


def document(lines: Sequence[dict[str, Any]], page: Path) -> None:
    """Writes the section between the markers of ``page``."""
    header = ("real images", "LR", "MLP", "CNN", "processor, s", "peak memory, GB", "threads")
    rows = [
        [
            f"{line['images']:,} of {line['data']}",
            *(f"{100 * line['accuracy'][name]:.1f}" for name in CLASSIFIER_NAMES),
            f"{line['processor_seconds']:.0f}",
            f"{line['peak_bytes'] / 1e9:.2f}",
            str(line["threads"]),
        ]
        for line in lines
    ]
    write_between(page, MARKS, table(header, rows))


def main() -> None:
    """One evaluation, one line, and the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", default="mnist", help="a data set's name or path")
    parser.add_argument("--images", type=int, default=60_000)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--json", type=Path, default=ROOT / "docs" / "results" / "protocol.jsonl")
    parser.add_argument("--document", action="store_true")
    options = parser.parse_args()
    if not options.document:
        measure(options)
    document(lines_so_far(options.json), PAGE)


def measure(options: argparse.Namespace) -> None:
    """One evaluation, one line."""
    torch.set_num_threads(options.threads)
    about = machine()
    data, test = open_dataset(options.data), open_dataset(f"{options.data}@test")
    assert data.private_labels is not None
    pair = data.private_images[: options.images], data.private_labels[: options.images]
    wall, processor = time.perf_counter(), time.process_time()
    result = evaluate(pair, test=test)
    line = {
        "benchmark": "protocol",
        "data": data.name,
        "images": len(pair[0]),
        "accuracy": result["accuracy"],
        "seconds": result["seconds"],
        "wall_seconds": round(time.perf_counter() - wall, 1),
        "processor_seconds": round(time.process_time() - processor, 1),
        "peak_bytes": peak_memory(),
        "threads": options.threads,
        "command": f"python benchmarks/protocol.py --data {options.data} --images {len(pair[0])}",
        "machine": about,
    }
    print(json.dumps(line, indent=2))
    append_line(options.json, line)


if __name__ == "__main__":
    main()

"""Real images in place of synthetic ones: what the protocol itself loses, and its cost.

    python benchmarks/protocol.py --data mnist --images 60000
    python benchmarks/protocol.py --data mnist --images 10000

Trains LR, MLP and CNN on so many real training images, just as they are trained on synthetic ones,
and tests them on the real test set; prints accuracy, seconds of wall and processor, and peak
memory, and appends them to `docs/results/protocol.jsonl`. The same by the command line, for all
training images: `dpdm evaluate mnist --test mnist@test`.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

import torch
from common import ROOT, append_line, machine, peak_memory

from dpdm import open_dataset
from dpdm.evaluation import evaluate


def main() -> None:
    """One evaluation, one line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", default="mnist", help="a data set's name or path")
    parser.add_argument("--images", type=int, default=60_000)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--json", type=Path, default=ROOT / "docs" / "results" / "protocol.jsonl")
    options = parser.parse_args()
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
        "machine": about,
    }
    print(json.dumps(line, indent=2))
    append_line(options.json, line)


if __name__ == "__main__":
    main()

"""Runs every benchmark of speed and writes docs/performance.md from their results.

    python benchmarks/run.py             # a quarter of an hour or more on two cores
    python benchmarks/run.py --quick     # about 4, into runs/benchmark-quick/

Accuracy has a benchmark of its own: ``digits.py``.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import document
from common import RESULTS, ROOT, parser

SCRIPTS = ("per_unit_gradients.py", "training_step.py", "side_by_side.py", "sampling.py")


def main() -> None:
    """One benchmark after the other, then the page."""
    made = parser(__doc__)
    made.add_argument("--out", type=Path, help="the page; docs/performance.md")
    options = made.parse_args()
    short = ROOT / "runs" / "benchmark-quick"
    results = options.json or (short / RESULTS.name if options.quick else RESULTS)
    page = options.out or (short / document.DOCUMENT.name if options.quick else document.DOCUMENT)
    common = ["--device", options.device, "--threads", str(options.threads), "--json", str(results)]
    for script in SCRIPTS:
        print(f"\n{script}", flush=True)
        subprocess.run(
            [sys.executable, Path(__file__).with_name(script), *common]
            + (["--quick"] if options.quick else []),
            check=True,
        )
    document.write(results, page)
    print(f"\n{page}")


if __name__ == "__main__":
    main()

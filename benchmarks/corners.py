"""What statistics cost: `own-prior` on few and many, small and large, grey and colour images.

    python benchmarks/corners.py --work runs/corners      # a quarter of an hour on two cores

Cost follows from shape and number alone, so the images are made up: a smooth pattern for each
class under smooth noise. Each case is an uncompressed .npz, and then the commands that a person
would give, each in its process: `dpdm train own-prior`, `dpdm sample`. A line with their seconds
and peak memory goes to `docs/results/corners.jsonl`, and the table of `docs/results.md` is written
from the newest line of each case (`--document`: only that).
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from common import (
    ROOT,
    append_line,
    lines_so_far,
    machine,
    run_command,
    table,
    timed,
    write_between,
)

RESULTS, PAGE = ROOT / "docs" / "results" / "corners.jsonl", ROOT / "docs" / "results.md"
MARKS = "<!-- written by benchmarks/corners.py -->", "<!-- end of benchmarks/corners.py -->"
SAMPLES = 10_000
_BLOCK, _GRID = 10_000, 4

Line = dict[str, Any]


@dataclass(frozen=True)
class Corner:
    """A kind of data: how many images of what shape in how many classes, 0 for unlabelled ones."""

    images: int
    side: int
    channels: int
    classes: int

    @property
    def title(self) -> str:
        """As the table has it."""
        return f"{self.images:,} of {self.side}x{self.side}x{self.channels}"


CORNERS = (
    Corner(300, 28, 1, 0),
    Corner(3_000, 128, 3, 2),
    Corner(20_000, 64, 3, 10),
    Corner(60_000, 28, 1, 10),
    Corner(60_000, 32, 3, 10),
    Corner(60_000, 32, 3, 200),
    Corner(1_000_000, 28, 1, 10),
)


def write_images(corner: Corner, path: Path) -> None:
    """The made-up images as an .npz. Classes differ in number: the first has twice the last's."""
    random = np.random.default_rng(0)
    classes = max(corner.classes, 1)
    weights = np.linspace(2.0, 1.0, classes)
    labels = random.choice(classes, corner.images, p=weights / weights.sum())
    zoom = -(-corner.side // _GRID)
    patterns = random.integers(40, 216, (classes, _GRID, _GRID, corner.channels), np.int16)
    images = np.empty((corner.images, corner.side, corner.side, corner.channels), np.uint8)
    for first in range(0, corner.images, _BLOCK):
        own = labels[first : first + _BLOCK]
        noise = random.integers(-40, 40, (len(own), *patterns.shape[1:]), np.int16)
        coarse = (patterns[own] + noise).astype(np.uint8)
        fine = coarse.repeat(zoom, axis=1).repeat(zoom, axis=2)
        images[first : first + len(own)] = fine[:, : corner.side, : corner.side]
    np.savez(path, images=images, **({"labels": labels} if corner.classes else {}))


def measure(corner: Corner, work: Path) -> Line:
    """One row: the two commands, in ``work``, a folder that is there."""
    data, run, made = work / "images.npz", work / "run", work / "samples.npz"
    write_images(corner, data)
    line = {**asdict(corner), "samples": SAMPLES}
    settings = ["--set", f"privacy.delta={min(1e-6, 0.1 / corner.images):g}"]
    given = ["own-prior", "--data", f"{data}", "--out", f"{run}", *settings]
    line |= timed("train", ["train", *given])
    line |= timed("sample", ["sample", f"{run}", "-n", f"{SAMPLES}", "--out", f"{made}"])
    state = json.loads((run / "private" / "state.json").read_text("utf-8"))
    line |= {"fitting_seconds": round(state["training_seconds"], 1), "machine": machine()}
    return line


def corner_of(line: Line) -> Corner:
    """What a line measured."""
    return Corner(**{key: line[key] for key in asdict(CORNERS[0])})


def document(lines: Sequence[Line], page: Path) -> None:
    """Writes the section between the markers of ``page``."""
    newest = {corner_of(line): line for line in lines}
    rows = [
        [
            corner.title,
            str(corner.classes or "none"),
            *(
                cell
                for name in ("train", "sample")
                for cell in (
                    f"{line[f'{name}_seconds']:,.0f}",
                    f"{line[f'{name}_peak_bytes'] / 2**30:.2f}",
                )
            ),
        ]
        for corner, line in sorted(newest.items(), key=lambda pair: CORNERS.index(pair[0]))
    ]
    header = ("images", "classes", "train, s", "its GiB", f"{SAMPLES:,} samples, s", "their GiB")
    made = lines[-1]["machine"]
    about = f"{made['processor']}, {made['cores']} cores, torch {made['torch']}, commit "
    write_between(page, MARKS, f"{table(header, rows)}\n\n{about}{made['commit']}.")


def main() -> None:
    """Measures every corner, or only writes the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("runs/corners"))
    parser.add_argument("--only", type=int, help="the case of this number, from 0")
    parser.add_argument("--document", action="store_true", help="only write the table anew")
    options = parser.parse_args()
    chosen = CORNERS if options.only is None else CORNERS[options.only : options.only + 1]
    for corner in () if options.document else chosen:
        options.work.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=options.work) as folder:
            line = measure(corner, Path(folder))
        print(json.dumps(line), flush=True)
        append_line(RESULTS, line)
    document(lines_so_far(RESULTS), PAGE)


if __name__ == "__main__":
    run_command(main)

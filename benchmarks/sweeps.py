"""The digits sweeps of the paper's own questions in docs/results.md: tables and figures.

    for s in k laws; do dpdm sweep digits-$s --out runs/sweeps/digits-views --jobs 2; done
    for s in configs samplers; do dpdm sweep digits-$s --out runs/sweeps/digits-$s --jobs 2; done
    python benchmarks/sweeps.py --sweeps runs/sweeps

Copies the result lines into docs/results/, and from these copies writes what is between the markers
in docs/results.md: every number there is one of theirs. Without --sweeps nothing is copied.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import ROOT, read_lines

from dpdm.sweep.figure import draw, to_png
from dpdm.sweep.table import rows_of, to_markdown

Line = dict[str, Any]

BEGIN, END = "<!-- sweeps: begin -->", "<!-- sweeps: end -->"
TITLES = {
    "digits-views": "Noise multiplicity and view laws (`digits-k`, `digits-laws`)",
    "digits-configs": "DM configs (`digits-configs`)",
    "digits-samplers": "Samplers on shared trainings (`digits-samplers`)",
}
KEPT = (
    "values",
    "seed",
    "private",
    "epsilon",
    "delta",
    "accuracy",
    "frechet",
    "frechet_measure",
    "training_seconds",
    "image_passes",
    "steps",
    "synthetic_images",
    "device",
    "threads",
    "data",
    "version",
    "commit",
)
"""What is copied of a line: no path, no name of a machine."""


def copy(sweeps: Path, results: Path) -> None:
    """Copies ``SWEEPS/NAME/results.jsonl`` of each known sweep that is there."""
    for name in TITLES:
        source = sweeps / name / "results.jsonl"
        if source.is_file():
            lines = [{key: line[key] for key in KEPT} for line in read_lines(source)]
            text = "".join(json.dumps(line) + "\n" for line in lines)
            (results / f"sweep-{name}.jsonl").write_text(text, "utf-8")


def section(name: str, lines: Sequence[Line], results: Path) -> str:
    """A sweep's title, its table, and its figure, which is written beside the lines."""
    rows, first = rows_of(lines), lines[0]
    picture = results / f"sweep-{name}.png"
    picture.write_bytes(to_png(draw(rows, first["frechet_measure"], private=False)))
    keys = list(first["values"])
    table = to_markdown(keys, rows, first["frechet_measure"])
    return (
        f"**{TITLES[name]}**\n\n{made_by(lines)}\n\n{table}\n"
        f"![Accuracy and Frechet distance against {', '.join(keys)}](results/{picture.name})\n"
    )


def made_by(lines: Sequence[Line]) -> str:
    """What the cells have in common, in a sentence of their own figures."""

    def values(key: str) -> str:
        return ", ".join(str(value) for value in sorted({line[key] for line in lines}, key=str))

    return (
        f"{len(lines)} cells on {values('data')}, {values('steps')} steps, "
        f"{values('synthetic_images')} synthetic images, delta {values('delta')}, "
        f"{values('device')}, commit {values('commit')}. Mean and sample standard deviation over "
        "seeds; accuracy in percent on the real test images."
    )


def written(document: str, sections: Sequence[str]) -> str:
    """The document with what is between the markers replaced; appended where there are none."""
    body = f"{BEGIN}\n\n" + "\n".join(sections) + f"\n{END}"
    before, begin, rest = document.partition(BEGIN)
    if not begin:
        return f"{document.rstrip()}\n\n## Digits: the paper's own questions\n\n{body}\n"
    _, end, after = rest.partition(END)
    if not end:
        raise SystemExit(f"error: {BEGIN} without {END}; put it back")
    return before + body + after


def main() -> None:
    """Copies, draws, writes."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sweeps", type=Path, help="folder of the sweeps, to copy their lines")
    parser.add_argument("--docs", type=Path, default=ROOT / "docs")
    options = parser.parse_args()
    results = options.docs / "results"
    if options.sweeps is not None:
        copy(options.sweeps, results)
    sections = [
        section(name, read_lines(path), results)
        for name in TITLES
        if (path := results / f"sweep-{name}.jsonl").is_file()
    ]
    if not sections:
        raise SystemExit("error: no result lines of a sweep; give --sweeps DIR")
    document = options.docs / "results.md"
    document.write_text(written(document.read_text("utf-8"), sections), "utf-8")


if __name__ == "__main__":
    main()

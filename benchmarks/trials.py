"""The page of what was tried, from its lines.

    python benchmarks/trials.py

Whoever compares settings in a sitting appends a line to `docs/results/trials.jsonl`: `title`, `on`
(which images, how many samples and seeds), `columns`, `rows` and what was `said` of it, which
setting was kept. `docs/trials.md` is written from these lines.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import ROOT, read_lines, table, write_between

LINES, PAGE = ROOT / "docs" / "results" / "trials.jsonl", ROOT / "docs" / "trials.md"
MARKS = "<!-- written by benchmarks/trials.py -->", "<!-- end of benchmarks/trials.py -->"


def section(lines: Sequence[dict[str, Any]]) -> str:
    """The generated part of the page: a table a trial, the newest last."""
    return "\n\n".join(
        part
        for line in lines
        for part in (
            f"## {line['title']}",
            f"On {line['on']}.",
            table(line["columns"], [[_cell(value) for value in row] for row in line["rows"]]),
            line["said"],
        )
        if part
    )


def _cell(value: object) -> str:
    return "" if value is None else str(value)


def document(lines: Sequence[dict[str, Any]], page: Path) -> None:
    """Writes the page's trials anew."""
    write_between(page, MARKS, section(lines))


if __name__ == "__main__":
    document(read_lines(LINES), PAGE)

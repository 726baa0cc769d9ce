"""The page of what was tried, from its lines.

    python benchmarks/trials.py

Whoever compares settings in a sitting appends a line to `docs/results/trials.jsonl`: `title`, `on`
(which images, how many samples and seeds), `columns`, `rows`, what was `said` of it, which
setting was kept, and `again`, the commands that ask the same of today's presets, most of
`benchmarks/recipes.py --held-out` or `benchmarks/denoisers.py`; none where only a script could.
`docs/trials.md` is written from these lines.
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
            again(line["again"]),
        )
        if part
    )


def again(commands: Sequence[str]) -> str:
    """What asks the same today."""
    if not commands:
        return "No command asks this again: its script was not kept."
    listed = "\n".join(f"    {command}" for command in commands)
    return f"The same question, of today's presets:\n\n{listed}"


def _cell(value: object) -> str:
    return "" if value is None else str(value)


def document(lines: Sequence[dict[str, Any]], page: Path) -> None:
    """Writes the page's trials anew."""
    write_between(page, MARKS, section(lines))


if __name__ == "__main__":
    document(read_lines(LINES), PAGE)

"""`dpdm privacy audit digits`: what an attacker with full access can show, as a line and a table.

    python benchmarks/audit.py

Each call audits anew, with canaries of its own (minutes on two cores), appends a line to
`docs/results/audit.jsonl` and writes the table of `docs/privacy.md`, which has the newest line and
the bounds of all. `--document` only writes the table.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import ROOT, append_line, lines_so_far, machine, table, write_between

from dpdm import open_dataset, preset
from dpdm.audit import run_audit

LINES, PAGE = ROOT / "docs" / "results" / "audit.jsonl", ROOT / "docs" / "privacy.md"
MARKS = "<!-- written by benchmarks/audit.py -->", "<!-- end of benchmarks/audit.py -->"

Line = dict[str, Any]


def measured() -> Line:
    """One audit of the preset `digits`, on the digits."""
    about = {"command": "python benchmarks/audit.py", "preset": "digits", "machine": machine()}
    result = run_audit(preset("digits"), open_dataset("digits"))
    found = result.to_json()
    checks = {"passed": sum(check.passed for check in result.checks), "all": len(result.checks)}
    return {key: found[key] for key in found if key != "access"} | {"checks": checks} | about


def section(lines: Sequence[Line]) -> str:
    """The generated part of the page."""
    last = lines[-1]
    rows = [
        [
            family["kind"],
            str(family["count"]),
            f"{family['correct']} of {family['guesses']}",
            f"{family['epsilon_lower_bound']:.2f}",
        ]
        for family in last["canaries"]
    ]
    header = ("canaries", "how many", "right guesses", "epsilon is at least")
    bounds = ", ".join(f"{line['epsilon_lower_bound']:.2f}" for line in lines)
    passed = last["checks"]
    return (
        f"{table(header, rows)}\n\n"
        f"Preset `{last['preset']}`, claim {last['epsilon_claimed']:.4g} at delta "
        f"{last['delta']:g}, confidence {100 * last['confidence']:g} %; {passed['passed']} of "
        f"{passed['all']} checks passed; {last['seconds']:.0f} s; commit "
        f"{last['machine']['commit']}. Bounds of all audits of which a line is kept: {bounds}."
    )


def document(lines: Sequence[Line], page: Path) -> None:
    """Writes the table of the page anew."""
    write_between(page, MARKS, section(lines))


def main() -> None:
    """Audits, and writes line and table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--document", action="store_true")
    if not parser.parse_args().document:
        line = measured()
        print(json.dumps(line))
        append_line(LINES, line)
    document(lines_so_far(LINES), PAGE)


if __name__ == "__main__":
    main()

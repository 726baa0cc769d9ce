"""What per-unit gradients cost beside an ordinary step: one table.

    python benchmarks/per_unit_gradients.py --case mnist digits --repeats 5

Every row has a process of its own, so that its peak memory is its own. All processes of a case stay
alive and take a step in turn, so that what else the machine does meets every row alike; those that
keep freed memory (``kept``) come after the others. The rows are in ``gradient_rows.py``. A row that
runs out of memory or is refused says so in its place.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

from common import BF16, CASES, KEPT, Case, Results, parser, spread, table
from row_process import Row

MIB = 2**20


SLOW = 3.0
"""A row that takes more than so many times the time of ``plain`` takes SLOW_REPEATS steps."""
SLOW_REPEATS = 2


ROW_NAMES = (
    "plain",
    "dpdm",
    "dpdm+clip",
    f"plain{BF16}",
    f"dpdm{BF16}",
    "Opacus hooks",
    "Opacus ghost",
    "vmap",
    "loop",
    f"plain{KEPT}",
    f"dpdm{KEPT}",
    f"Opacus hooks{KEPT}",
    f"plain{BF16}{KEPT}",
    f"dpdm{BF16}{KEPT}",
    f"Opacus hooks{BF16}{KEPT}",
    f"vmap{BF16}{KEPT}",
)


def groups(rows: Sequence[str]) -> list[list[str]]:
    """Rows measured in turn: those that keep memory apart, or there would be too little of it."""
    found = dict[str, list[str]]()
    for row in rows:
        found.setdefault(memory_of(row), []).append(row)
    return list(found.values())


def memory_of(row: str) -> str:
    """The end of the names of the rows that one is measured among."""
    return next((end for end in (BF16 + KEPT, KEPT) if row.endswith(end)), "")


def measure(
    name: str, rows: Sequence[str], device: str, threads: int, repeats: int, minutes: float
) -> list[Row]:
    """The rows of a case after a round of warm-up and up to ``repeats`` more in ``minutes``."""
    started = time.monotonic()
    made = [Row(name, row, device, threads) for row in rows]
    try:
        for row in made:
            row.wait()
        for repeat in range(repeats + 1):
            for row in made:
                if not _has_enough(row, made[0]):
                    row.step(warm=repeat > 0)
            spent = (time.monotonic() - started) / 60
            print(f"{name}: round {repeat} of {repeats}, {spent:.1f} min", file=sys.stderr)
            if repeat >= 2 and spent * (repeat + 2) / (repeat + 1) > minutes:
                break
    finally:
        for row in made:
            row.close()
    return made


def _has_enough(row: Row, first: Row) -> bool:
    """Whether a row is slow beside the first, ``plain``, and has taken its steps."""
    if len(row.seconds) < SLOW_REPEATS or not first.seconds:
        return False
    return min(row.seconds) > SLOW * min(first.seconds)


def plain_of(row: Row, rows: Sequence[Row]) -> Row | None:
    """The ordinary step that a row is held against: one of those that it is measured among."""
    name = "plain" + memory_of(row.name)
    return next((other for other in rows if other.name == name), None)


def line_of(case: Case, row: Row, plain: Row | None) -> dict[str, Any]:
    """What is written of a row. Ratios of time are medians over rounds, each with its own plain."""
    line: dict[str, Any] = {"row": row.name, "units": case.units, "views": case.views}
    if row.error is not None:
        return line | {"error": row.error}
    line |= {"seconds": spread(row.seconds), "repeats": len(row.seconds)}
    line |= {
        "images_per_second": case.units * case.views / statistics.median(row.seconds),
        "peak_mib": row.peak / MIB,
        "step_mib": (row.peak - row.start) / MIB,
    }
    if plain is not None and plain.error is None:
        ratios = [a / b for a, b in zip(row.seconds, plain.seconds, strict=False)]
        line |= {"time_ratio": spread(ratios), "peak_ratio": row.peak / plain.peak}
        own, ordinary = (r.peak - r.start for r in (row, plain))
        line |= {"step_memory_ratio": own / ordinary} if ordinary > 0 else {}
    return line


HEADER = (
    "row",
    "rounds",
    "ms",
    "low",
    "high",
    "images/s",
    "time / plain",
    "peak MiB",
    "memory / plain",
    "step MiB",
)
"""``step MiB`` is what the steps added to what the process held when it was ready."""


def cells(line: dict[str, Any]) -> list[str]:
    """A line of results as a row of the table."""
    if "error" in line:
        return [line["row"], line["error"], *[""] * (len(HEADER) - 2)]
    seconds = [f"{1e3 * line['seconds'][key]:.1f}" for key in ("median", "low", "high")]
    ratio = f"{line['time_ratio']['median']:.2f}" if "time_ratio" in line else ""
    return [
        line["row"],
        str(line["repeats"]),
        *seconds,
        f"{line['images_per_second']:.1f}",
        ratio,
        f"{line['peak_mib']:.0f}",
        f"{line['peak_ratio']:.2f}" if "peak_ratio" in line else "",
        f"{line['step_mib']:.0f}",
    ]


def main() -> None:
    """Measures the cases asked for, prints their tables and appends their lines."""
    options = arguments()
    results = Results.of("per_unit_gradients", options)
    for name in options.case:
        case = CASES[name]
        limits = (options.repeats, options.minutes or case.minutes)
        made = [
            row
            for group in groups(options.row)
            for row in measure(name, group, results.device, options.threads, *limits)
        ]
        lines = [
            results.write(case=name, **line_of(case, row, plain_of(row, made))) for row in made
        ]
        print(f"\n{name}, U={case.units}, V={case.views}, {results.where}\n")
        print(table(HEADER, [cells(line) for line in lines]), flush=True)


def arguments() -> argparse.Namespace:
    """The command line."""
    made = parser(__doc__)
    made.add_argument("--case", nargs="*", choices=CASES, help="all; with --quick mnist and digits")
    made.add_argument("--row", nargs="*", choices=ROW_NAMES, default=list(ROW_NAMES))
    made.add_argument("--repeats", type=int, help="rounds after the warm-up; 5, with --quick 1")
    made.add_argument(
        "--minutes",
        type=float,
        help="of a case, three times with rows that keep memory; at least 2 rounds",
    )
    options = made.parse_args()
    options.case = options.case or (["mnist", "digits"] if options.quick else list(CASES))
    options.repeats = options.repeats or (1 if options.quick else 5)
    return options


if __name__ == "__main__":
    main()

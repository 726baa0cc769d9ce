"""Result lines as one table: a row for each combination of values, mean and spread over seeds."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dpdm.promise.wording import at_most
from dpdm.sweep.grid import value_text

Line = Mapping[str, Any]
Spread = tuple[float, float | None]

MEASURES = ("lr", "mlp", "cnn", "frechet")
"""What is measured of a cell: three accuracies (fractions of 1), and a Frechet distance."""


@dataclass(frozen=True)
class Row:
    """A combination of values.

    Attributes:
        values: by key.
        seeds: how many cells it is the mean of.
        epsilon: the largest that one of its trainings spent; None where one keeps no promise.
        measures: (mean, sample standard deviation or None) of those of ``MEASURES`` that are there,
            and of ``seconds`` (training) and ``image_passes``.
    """

    values: dict[str, Any]
    seeds: int
    epsilon: float | None
    measures: dict[str, Spread]


def rows_of(lines: Iterable[Line]) -> list[Row]:
    """Lines with the same values together, in the order of their first."""
    together: dict[str, list[Line]] = {}
    for line in lines:
        together.setdefault(repr(list(line["values"].items())), []).append(line)
    return [_row(group) for group in together.values()]


def _row(group: Sequence[Line]) -> Row:
    found = {
        name: values
        for name in (*MEASURES, "seconds", "image_passes")
        if None not in (values := [_measure(line, name) for line in group])
    }
    spent = [line["epsilon"] for line in group]
    return Row(
        dict(group[0]["values"]),
        len(group),
        None if None in spent else max(spent),
        {name: _spread(values) for name, values in found.items()},
    )


def _measure(line: Line, name: str) -> Any:
    if name == "seconds":
        return line["training_seconds"]
    if name in line:
        return line[name]
    return (line["accuracy"] or {}).get(name)


def _spread(values: Sequence[float]) -> Spread:
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None


def to_csv(keys: Sequence[str], rows: Iterable[Row]) -> str:
    """Numbers in full, mean and standard deviation in columns of their own."""
    file = io.StringIO()
    names = (*MEASURES, "seconds", "image_passes")
    writer = csv.writer(file, lineterminator="\n")
    columns = [column for name in names for column in (name, f"{name}_sd")]
    writer.writerow([*keys, "seeds", "epsilon_spent", *columns])
    for row in rows:
        pairs = [row.measures.get(name, (None, None)) for name in names]
        numbers = ["" if number is None else f"{number:.6g}" for pair in pairs for number in pair]
        spent = "" if row.epsilon is None else at_most(row.epsilon, 6)
        writer.writerow([*(value_text(row.values[k]) for k in keys), row.seeds, spent, *numbers])
    return file.getvalue()


def headings(keys: Sequence[str], frechet: str) -> tuple[str, ...]:
    """The columns of a table for people."""
    return (*keys, "seeds", "epsilon spent", "LR %", "MLP %", "CNN %", frechet, "training s")


def cells(keys: Sequence[str], row: Row) -> tuple[str, ...]:
    """A row of a table for people: mean, and after a plus-minus the spread over seeds."""

    def text(name: str, factor: float, digits: int) -> str:
        mean, spread = row.measures.get(name, (None, None))
        if mean is None:
            return ""
        shown = f"{factor * mean:.{digits}f}"
        return shown if spread is None else f"{shown} ± {factor * spread:.{digits}f}"

    return (
        *(value_text(row.values[key]) for key in keys),
        str(row.seeds),
        "none" if row.epsilon is None else at_most(row.epsilon),
        *(text(name, 100, 1) for name in ("lr", "mlp", "cnn")),
        text("frechet", 1, 3),
        text("seconds", 1, 0),
    )


def to_markdown(keys: Sequence[str], rows: Iterable[Row], frechet: str) -> str:
    """A Markdown table; all but the varied keys to the right."""
    columns = headings(keys, frechet)
    rule = ["---" if index < len(keys) else "---:" for index in range(len(columns))]
    lines = [columns, rule, *(cells(keys, row) for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)

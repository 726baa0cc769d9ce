"""How commands talk: results to standard output, progress and warnings to standard error."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

if TYPE_CHECKING:
    from dpdm.training.events import TrainingEvent


def _console(*, stderr: bool = False, width: int | None = None) -> Console:
    """Class names and paths are printed as they are, whatever markup or emoji they spell."""
    return Console(
        stderr=stderr, width=width, highlight=False, markup=False, emoji=False, soft_wrap=True
    )


# Into a pipe or a file, lines are as long as they need to be.
out = _console(width=None if sys.stdout.isatty() else 200)
err = _console(stderr=True)

_LINE_EVERY_SECONDS = 10.0
_SHORT_SECONDS = 2.0
"""Reading data is usually over before anyone asks how far it is."""
_LEAST_LAST = 30
"""Characters of a table's last column on a line, on a narrow terminal."""


def print_json(value: Any) -> None:
    """One JSON object on standard output and nothing else there."""
    print(json.dumps(value, indent=2, allow_nan=False))


def table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], title: str | None = None
) -> None:
    """Prints a table; numbers are right-aligned, and only the last column is folded."""
    body = [[str(cell) for cell in row] for row in rows]
    drawn = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for index, column in enumerate(columns):
        numeric = all(_is_number(row[index]) for row in body) and bool(body)
        last = index == len(columns) - 1
        drawn.add_column(
            column, justify="right" if numeric else "left", overflow="fold", no_wrap=not last
        )
    for row in body:
        drawn.add_row(*row)
    # Lines that a narrow terminal wraps are better than numbers that it loses.
    lengths = [max(map(len, column)) for column in zip(columns, *body, strict=True)]
    needed = sum(lengths[:-1]) + 2 * (len(lengths) - 1) + min(lengths[-1], _LEAST_LAST)
    _console(width=max(out.width, needed)).print(drawn)


def _is_number(cell: str) -> bool:
    return cell.replace(",", "").replace(".", "").replace("e", "").lstrip("-").isdigit() or not cell


def note(message: str) -> None:
    """One line for people, on standard error."""
    err.print(message)


class Display:
    """Progress of long work: a bar on a terminal, one line every ten seconds elsewhere.

    A context manager, for the time of the work.
    """

    def __init__(self) -> None:
        self._live = err.is_terminal
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[detail]}"),
            TimeRemainingColumn(),
            console=err,
            transient=True,
            disable=not self._live,
        )
        self._tasks: dict[str, TaskID] = {}
        self._last_line = 0.0
        self._epsilon: float | None = None
        self._rates: list[tuple[float, int]] = []

    def __enter__(self) -> Display:
        self._bar.start()
        return self

    def __exit__(self, *details: object) -> None:
        self._bar.stop()

    def update(self, what: str, done: int, total: int | None, detail: str = "") -> None:
        """Sets how much of ``what`` is done; ``total`` is None where nobody knows it."""
        if self._live:
            if what not in self._tasks:
                for task in self._tasks.values():
                    self._bar.update(task, visible=False)
                self._tasks[what] = self._bar.add_task(what, total=total, detail=detail)
            self._bar.update(self._tasks[what], completed=done, total=total, detail=detail)
            return
        now = time.monotonic()
        if now - self._last_line >= _LINE_EVERY_SECONDS or done == total:
            self._last_line = now
            whole = "" if total is None else f" of {total}"
            note(f"{what}: {done}{whole}{'  ' + detail if detail else ''}")

    def training(self, event: TrainingEvent) -> None:
        """Shows an event of a training."""
        if event.epsilon is not None:
            self._epsilon = event.epsilon
        if event.record is None:
            if event.message:
                note(event.message)
            return
        record = event.record
        self._rates = [*self._rates[-19:], (record.seconds, record.images)]
        seconds = sum(pair[0] for pair in self._rates)
        rate = sum(pair[1] for pair in self._rates) / max(seconds, 1e-9)
        spent = "" if self._epsilon is None else f"epsilon {self._epsilon:.3g}  "
        secret = " (private)" if record.phase in ("DP-SGD", "labeller") else ""
        self.update(
            record.phase,
            record.step,
            event.steps,
            f"loss{secret} {record.loss:.4f}  {spent}{rate:,.0f} images/s",
        )


@contextmanager
def reading(spec: str) -> Iterator[Callable[[int, int], None]]:
    """Progress of opening a data set, for whoever waits longer than a moment.

    Not to be entered while a ``Display`` is shown: a terminal has one at a time.
    """
    begun = time.monotonic()
    with Display() as shown:

        def update(done: int, total: int) -> None:
            if time.monotonic() - begun >= _SHORT_SECONDS:
                shown.update(f"reading images of {spec}", done, total)

        yield update


def warn_private() -> None:
    """Says that what follows shows private data."""
    print(
        "private view: what follows is not covered by any guarantee; do not share it",
        file=sys.stderr,
    )

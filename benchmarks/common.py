"""What the benchmarks share: their cases, the machine in words, result lines, medians, tables.

Nothing here imports torch: a process that starts others must stay small (see ``peak_memory``).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from dpdm.errors import DpdmError

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "docs" / "results" / "performance.jsonl"


@dataclass(frozen=True)
class Problem:
    """A preset and the images it is for: (H, W, C), their number and their classes."""

    preset: str
    shape: tuple[int, int, int]
    size: int
    classes: int = 10


PROBLEMS = {
    "mnist": Problem("mnist-eps10", (28, 28, 1), 60_000),
    "digits": Problem("digits", (8, 8, 1), 1_437),
    "cifar10": Problem("cifar10-eps10", (32, 32, 3), 50_000),
}


class Case(NamedTuple):
    """A network, by the name of its problem, at U units of V views; how long to measure it."""

    problem: str
    units: int
    views: int
    minutes: float


CASES = {
    "mnist": Case("mnist", 8, 16, 2.5),
    "mnist-u64": Case("mnist", 64, 4, 3.5),
    "digits": Case("digits", 256, 4, 1.0),
    "cifar10": Case("cifar10", 8, 4, 1.5),
}


BF16 = " bf16"
"""Ends the name of a row under autocast to bfloat16, before what else its name ends with."""

KEPT = " kept"
"""Ends the name of a row whose process keeps freed memory, as every ``dpdm`` command does."""


def parser(text: str | None) -> argparse.ArgumentParser:
    """The options that every benchmark has; ``text`` is its docstring."""
    made = argparse.ArgumentParser(description=(text or "").splitlines()[0])
    made.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    made.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    made.add_argument("--json", type=Path, help="append result lines to this file")
    made.add_argument("--quick", action="store_true", help="a short run, to see that it works")
    return made


def run_command(main: Callable[[], None]) -> None:
    """``main()``; a stop, or what its user can put right, ends it with a line, not a traceback.

    For benchmarks whose command, given again, goes on where it was stopped.
    """
    try:
        main()
    except DpdmError as error:
        stopped = str(error).replace("--resume goes on", "the same command goes on")
        print(stopped if error.exit_status == 130 else f"error: {error}", file=sys.stderr)
        raise SystemExit(error.exit_status) from None


def timed(name: str, arguments: Sequence[str]) -> dict[str, Any]:
    """Runs `dpdm` in a process of its own; its seconds and the largest memory, bytes, that it and
    those it began had together."""
    started, peak = time.perf_counter(), 0
    process = subprocess.Popen([sys.executable, "-m", "dpdm", *arguments])
    while process.poll() is None:
        looked = time.perf_counter()
        peak = max(peak, _memory_of_tree(process.pid))
        # Walking gigabytes of pages takes a tenth of a second, and the process may map none then.
        wait = 20 * (time.perf_counter() - looked)
        with suppress(subprocess.TimeoutExpired):
            process.wait(max(0.2, wait))
    if process.returncode:
        raise SystemExit(f"error: dpdm {' '.join(arguments)} failed")
    return {
        f"{name}_seconds": round(time.perf_counter() - started, 1),
        f"{name}_peak_bytes": peak,
    }


def _memory_of_tree(root: int) -> int:
    """Bytes of a process and all that descend from it, pages that they share counted once."""
    parents, found = dict[int, int](), {root}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            with suppress(OSError):
                status = (folder / "stat").read_text().rpartition(")")[2].split()
                parents[int(folder.name)] = int(status[1])
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    total = 0
    for pid in found:
        with suppress(OSError):
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    total += 1024 * int(line.split()[1])
    return total


def find_device(asked: str) -> tuple[str, str]:
    """``cpu`` or ``cuda``, and the name of processor or card; torch is asked in another process."""
    if asked != "cpu":
        code = "import torch as t; print(t.cuda.get_device_name() if t.cuda.is_available() else '')"
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        )
        if card := done.stdout.strip():
            return "cuda", card
        if asked == "cuda":
            raise SystemExit("error: --device cuda: torch sees no card; use --device cpu")
    return "cpu", _processor()


def machine() -> dict[str, Any]:
    """What a figure depends on besides the code, and the commit of the code."""
    return {
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "python": platform.python_version(),
        "torch": version("torch"),
        "opacus": _version("opacus"),
        "commit": _commit(),
        "busy_cores": _busy_cores(),
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _busy_cores() -> float | None:
    """Cores at work for one second, before anything is measured: what others do on the machine.

    With one core taken, two threads that wait for each other can be 40 times as slow.
    """
    stat = Path("/proc/stat")
    if not stat.is_file():
        return None

    def busy() -> float:
        user, nice, system, _idle, _wait, interrupts, soft, stolen = map(
            int, stat.read_text().split()[1:9]
        )
        ticks = user + nice + system + interrupts + soft + stolen
        return ticks / os.sysconf("SC_CLK_TCK")

    before, started = busy(), time.monotonic()
    time.sleep(1)
    return round((busy() - before) / (time.monotonic() - started), 2)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _commit() -> str:
    """The short hash, with ``+`` where src/ or benchmarks/ differ from it; ``unknown`` outside."""

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    try:
        changed = git("status", "--porcelain", "--", "src", "benchmarks")
        return git("rev-parse", "--short", "HEAD") + ("+" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


@dataclass(frozen=True)
class Results:
    """Result lines of one call of a benchmark, appended to ``path`` (nowhere where it is None)."""

    benchmark: str
    path: Path | None
    quick: bool
    device: str
    device_name: str
    threads: int
    started: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    machine: dict[str, Any] = field(default_factory=machine)

    @classmethod
    def of(cls, benchmark: str, options: argparse.Namespace) -> Results:
        """For the options of ``parser``."""
        device, name = find_device(options.device)
        return cls(benchmark, options.json, options.quick, device, name, options.threads)

    @property
    def where(self) -> str:
        """Device and threads, for a table's title."""
        return f"{self.device_name}, {self.threads} threads"

    def write(self, **values: Any) -> dict[str, Any]:
        """One line: what was measured, and on what."""
        line = {
            "benchmark": self.benchmark,
            **values,
            "device": self.device,
            "device_name": self.device_name,
            "threads": self.threads,
            "quick": self.quick,
            "started": self.started,
            "machine": self.machine,
        }
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            append_line(self.path, line)
        return line


def spread(values: Sequence[float]) -> dict[str, float]:
    """Median, least and greatest."""
    return {"median": statistics.median(values), "low": min(values), "high": max(values)}


def peak_memory() -> int:
    """Largest resident size of this process so far, bytes.

    On Linux a child begins with the size of the process that forked it, so start it from a small
    one.
    """
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The result lines of a file."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def lines_so_far(path: Path) -> list[dict[str, Any]]:
    """The result lines of a file; none where nothing was measured yet."""
    return read_lines(path) if path.is_file() else []


def append_line(path: Path, line: Mapping[str, Any]) -> None:
    """Adds a result line to a file, which is made where it is not there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def write_between(page: Path, marks: tuple[str, str], text: str) -> None:
    """Puts ``text`` between two marks on a page, in place of what is there; a page that does not
    exist has nothing else."""
    begin, end = marks
    if not page.exists():
        page.write_text(f"{begin}\n{end}\n", "utf-8")
    before, found, rest = page.read_text("utf-8").partition(begin)
    _, ended, after = rest.partition(end)
    if not (found and ended):
        raise SystemExit(f"error: {page}: no {begin} and {end}; put them where the table belongs")
    page.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}", "utf-8")


def median_and_range(values: Sequence[float]) -> str:
    """Of percentages, to a tenth; without a range where there is one value."""
    between = f" ({min(values):.1f} to {max(values):.1f})" if len(values) > 1 else ""
    return f"{statistics.median(values):.1f}{between}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, padded so that it reads well in a terminal too; all but the first column
    to the right."""
    cells = [list(header), *map(list, rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [
        [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
        for row in cells
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in [lines[0], rule, *lines[1:]])

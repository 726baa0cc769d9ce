"""A row of ``per_unit_gradients.py`` in a process of its own, and how it is spoken to.

    python benchmarks/row_process.py CASE ROW DEVICE THREADS

prepares the row, then takes a step for every line on standard input and answers with one of JSON.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import CASES, KEPT, PROBLEMS, peak_memory


class Row:
    """A row's process: it prepares itself, then takes a step whenever it is told to.

    Attributes:
        start: its memory when it was ready, bytes.
        seconds: of every step after the first, which warms up.
        peak: largest memory so far, bytes.
        error: why it cannot go on, or None.
    """

    def __init__(self, case: str, name: str, device: str, threads: int) -> None:
        self.name, self.seconds = name, list[float]()
        self.start = self.peak = 0
        self.error: str | None = None
        self._stderr = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, __file__, case, name, device, str(threads)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": str(threads)},
        )

    def wait(self) -> None:
        """Until the row is ready."""
        self.start = self._read().get("memory", 0)

    def step(self, warm: bool) -> None:
        """One step; its time counts once the row is ``warm``."""
        if self.error is not None:
            return
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write("go\n")
            self._process.stdin.flush()
        said = self._read()
        if self.error is None:
            self.peak = said["peak"]
            if warm:
                self.seconds.append(said["seconds"])

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.wait()
        self._stderr.close()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            self._stderr.seek(0)
            last = (self._stderr.read().strip().splitlines() or [""])[-1]
            killed = f"killed by signal {-code}, as for want of memory" if code < 0 else last
            self.error = killed or f"ended with status {code}"
            return {}
        said: dict[str, Any] = json.loads(line)
        self.error = said.get("error")
        return said


def serve(case_name: str, name: str, device: str, threads: int) -> None:
    """The life of a row's process: answers every line on standard input with one of JSON."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a package prints is no answer

    def answer(**values: Any) -> None:
        print(json.dumps(values), file=answers, flush=True)

    try:
        import torch
        from gradient_rows import ROWS, make_task

        from dpdm.allocator import keep_freed_memory

        if name.endswith(KEPT):
            keep_freed_memory()

        torch.set_num_threads(threads)
        if device == "cpu":
            _limit_memory()
        case = CASES[case_name]
        step = ROWS[name.removesuffix(KEPT)](
            make_task(PROBLEMS[case.problem], case.units, case.views, device)
        )
        memory = peak_memory if device == "cpu" else torch.cuda.max_memory_allocated
        settle = torch.cuda.synchronize if device == "cuda" else lambda: None
        answer(memory=memory())
        for _ in sys.stdin:
            settle()
            started = time.perf_counter()
            result = step()
            settle()
            seconds = time.perf_counter() - started
            del result
            answer(seconds=seconds, peak=memory())
    except Exception as error:
        first = (str(error).splitlines() or [""])[0]
        answer(error=f"{type(error).__name__}: {first}"[:160])


def _limit_memory() -> None:
    """Lets an allocation beyond what the machine has left fail, rather than end other processes."""
    info = Path("/proc/meminfo")
    if info.is_file():
        left = {key: rest for key, _, rest in (x.partition(":") for x in info.open())}
        most = int(left["MemAvailable"].split()[0]) * 1024
        resource.setrlimit(resource.RLIMIT_DATA, (most, most))


if __name__ == "__main__":
    serve(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))

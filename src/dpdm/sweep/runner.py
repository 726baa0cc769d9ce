"""The processes of a sweep: one for each training, a few at a time, ended cleanly on Ctrl-C.

A child is its parent's alone: it leads a session of its own, so that Ctrl-C reaches the parent
only, and stops, with its state saved, when told to or when its standard input ends, as it does when
the parent is killed.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

from dpdm.sweep.cell import Job
from dpdm.training.interrupt import InterruptFlag

_POLL_SECONDS = 0.1
_INTERRUPTED = 130


@dataclass(frozen=True)
class Ended:
    """How a job ended.

    Attributes:
        job: which.
        status: 0 done, 130 stopped, else failed.
        error: one line where it failed, or was stopped by another than its parent.
    """

    job: Job
    status: int
    error: str = ""


@dataclass(frozen=True)
class _Child:
    job: Job
    process: subprocess.Popen[str]
    log: IO[str]

    def stop(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)

    def ended(self) -> Ended:
        """How it ended; call it when it has."""
        status = self.process.wait()
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.log.close()
        if status in (0, _INTERRUPTED, -signal.SIGTERM):
            return Ended(self.job, 0 if status == 0 else _INTERRUPTED)
        return Ended(self.job, status, _why(Path(self.log.name), status))


def run_jobs(
    jobs: Sequence[Job],
    parallel: int,
    logs: Path,
    *,
    tell: Callable[[list[str]], None],
    done: Callable[[Ended], None],
) -> bool:
    """Runs jobs, ``parallel`` at a time; what each prints goes to a file of its name in ``logs``.

    Args:
        tell: called every moment with the names of the running jobs.
        done: called as each ends.

    Returns:
        Whether all were run; False after Ctrl-C, when those running were stopped and saved.
    """
    logs.mkdir(parents=True, exist_ok=True)
    waiting, running = list(jobs), list[_Child]()
    with InterruptFlag() as interrupt:
        try:
            while running or (waiting and not interrupt.raised):
                while waiting and len(running) < parallel and not interrupt.raised:
                    running.append(_start(waiting.pop(0), logs))
                tell([child.job.name for child in running])
                time.sleep(_POLL_SECONDS)
                if interrupt.raised:
                    _stop_once(running)
                for child in [one for one in running if one.process.poll() is not None]:
                    running.remove(child)
                    end = child.ended()
                    if end.status == _INTERRUPTED and not interrupt.raised:
                        end = replace(end, error="stopped by a signal; its state is saved")
                    done(end)
        except Exception:  # of this process, not of theirs: they stop as on Ctrl-C, and save
            _stop_once(running)
            for child in running:
                child.process.wait()
            raise
        finally:  # also a second Ctrl-C
            for child in running:
                child.stop(signal.SIGKILL)
                child.ended()
    return not interrupt.raised


def _stop_once(running: list[_Child]) -> None:
    """Closing its standard input asks a child to stop; once, for a second request is an order."""
    for child in running:
        if child.process.stdin is not None and not child.process.stdin.closed:
            with contextlib.suppress(BrokenPipeError):
                child.process.stdin.close()


def _start(job: Job, logs: Path) -> _Child:
    environment = dict(os.environ)
    if job.threads is not None:
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            environment[name] = str(job.threads)
    log = (logs / f"{job.name}.log").open("w", encoding="utf-8")
    process = subprocess.Popen(
        [sys.executable, "-m", "dpdm", "sweep-training"],
        stdin=subprocess.PIPE,
        stdout=log,
        stderr=subprocess.STDOUT,
        env=environment,
        text=True,
        start_new_session=True,
    )
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.write(job.to_json() + "\n")
        process.stdin.flush()
    return _Child(job, process, log)


def receive(source: IO[str]) -> Job:
    """In the child: its job, and from now on a stop when ``source`` ends."""
    job = Job.from_json(source.readline())

    def wait() -> None:
        # Not source.read(): a thread that waits in it holds a lock which Python's exit needs.
        while os.read(source.fileno(), 1024):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()
    return job


def _why(log: Path, status: int) -> str:
    """The last line that a child printed, or how it was killed."""
    if status < 0:
        return f"killed by signal {-status} (out of memory?); see {log}"
    lines = [line for line in log.read_text("utf-8", "replace").splitlines() if line.strip()]
    return lines[-1].removeprefix("error: ") if lines else f"exit status {status}; see {log}"

"""The processes of a sweep, when the one that started them fails."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from dpdm.sweep import runner
from dpdm.sweep.cell import Job

CHILD = """
import sys, time
sys.stdin.read()  # until it is asked to stop
time.sleep(0.5)
open(sys.argv[1], "w").write("saved")
"""
JOB = Job("a", "", {}, (), "", None, "", "", "cpu", None, {})


@pytest.fixture
def saving(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a child writes that it was asked to stop and took its time."""
    saved = tmp_path / "saved"

    def start(job: Job, logs: Path) -> Any:
        process = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(saved)], stdin=subprocess.PIPE, text=True
        )
        return runner._Child(job, process, (logs / "log").open("w"))

    monkeypatch.setattr(runner, "_start", start)
    return saved


def test_an_error_of_the_parent_lets_its_processes_save(saving, tmp_path) -> None:
    def broken(names: list[str]) -> None:
        raise OSError("no space left on device")

    with pytest.raises(OSError, match="no space left"):
        runner.run_jobs([JOB], 1, tmp_path / "logs", tell=broken, done=print)
    assert saving.read_text() == "saved"


def test_a_second_ctrl_c_ends_them_at_once(saving, tmp_path) -> None:
    def second(names: list[str]) -> None:
        raise KeyboardInterrupt

    started = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        runner.run_jobs([JOB], 1, tmp_path / "logs", tell=second, done=print)
    time.sleep(max(0.0, 1.5 - (time.monotonic() - started)))
    assert not saving.exists()

"""How much memory there is, by what the system says."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from dpdm import memory
from dpdm.errors import RequestError

MACHINE = "MemTotal:       100 kB\nMemFree:        20 kB\nMemAvailable:    50 kB\n"


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"meminfo": MACHINE}, 50 * 1024),
        ({"meminfo": MACHINE, "memory.max": "max\n", "memory.current": "30\n"}, 50 * 1024),
        ({"meminfo": MACHINE, "memory.max": "2048\n", "memory.current": "1024\n"}, 1024),
        ({"memory.max": "2048\n", "memory.current": "1024\n"}, 1024),
        ({}, math.inf),
    ],
)
def test_what_is_left_is_the_least_that_the_system_says(monkeypatch, said, expected):
    monkeypatch.setattr(memory, "_text", lambda path: said.get(path.name, ""))
    assert memory.available_memory() == expected


def test_a_file_that_is_not_there_says_nothing(tmp_path: Path):
    assert memory._text(tmp_path / "none") == ""


def test_images_that_memory_does_not_hold_are_refused_with_both_sizes(monkeypatch):
    monkeypatch.setattr(memory, "available_memory", lambda: 2.0 * 2**30)
    memory.check_room("-n", 10_000, (28, 28, 1))
    expected = r"^-n 10000000: .* of 28x28x1 take 7\.4 GiB, and 2\.0 are free; draw fewer"
    with pytest.raises(RequestError, match=expected):
        memory.check_room("-n", 10_000_000, (28, 28, 1))


def test_processes_count_with_this_one_at_their_most(monkeypatch):
    monkeypatch.setattr(memory, "_largest_together", 0)
    before = memory.peak_memory(torch.device("cpu"))
    code = "b = bytearray(300 * 2**20); del b; print(flush=True); input()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], **pipes) as process:
        process.stdout.readline()
        memory.count_processes([process.pid])
        process.stdin.close()
    most = memory.peak_memory(torch.device("cpu"))
    assert most - memory.resident_memory() < 400 * 2**20  # not what this one holds once more
    assert most >= max(before, memory.resident_memory() + 250 * 2**20)


def test_a_process_that_has_ended_counts_nothing(monkeypatch):
    monkeypatch.setattr(memory, "_largest_together", 0)
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    memory.count_processes([process.pid])
    assert memory._largest_together <= memory.peak_memory(torch.device("cpu"))


def test_where_a_process_has_no_status_the_resource_limits_say_it(monkeypatch):
    monkeypatch.setattr(memory, "_text", lambda path: "")
    assert 2**26 < memory.peak_memory(torch.device("cpu")) < 2**36
    assert memory.resident_memory() == 0

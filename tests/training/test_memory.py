"""How much memory there is, by what the system says."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest

from dpdm.training import memory

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


def test_the_largest_child_is_counted_once_it_has_ended():
    before = memory.largest_child()
    subprocess.run([sys.executable, "-c", "b = bytearray(300 * 2**20)"], check=True)
    assert memory.largest_child() >= max(before, 300 * 2**20)

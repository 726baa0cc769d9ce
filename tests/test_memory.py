"""How much memory there is, by what the system says."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path

import pytest

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


def test_the_largest_child_is_counted_once_it_has_ended():
    before = memory.largest_child()
    subprocess.run([sys.executable, "-c", "b = bytearray(300 * 2**20)"], check=True)
    assert memory.largest_child() >= max(before, 300 * 2**20)

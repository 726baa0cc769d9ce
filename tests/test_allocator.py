"""Freed memory is kept, which a second pass then takes without page faults, or given back."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from dpdm import allocator

FAULTS = """
import resource
from dpdm.allocator import keep_freed_memory
{call}
def faults(size=2**28):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = bytearray(size)
    for at in range(0, size, 4096):
        block[at] = 1
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
print(faults())
"""


def second_block(call: str) -> int:
    code = [sys.executable, "-c", FAULTS.format(call=call)]
    return int(subprocess.run(code, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="an option of glibc's allocator")
def test_a_second_block_takes_the_pages_of_the_first():
    assert second_block("keep_freed_memory()") < second_block("") / 10


def test_elsewhere_nothing_happens(monkeypatch):
    monkeypatch.setattr(allocator.ctypes, "CDLL", lambda name: object())
    allocator.keep_freed_memory()
    allocator.give_back_freed_memory()


def test_giving_back_leaves_the_process_as_it_was():
    allocator.give_back_freed_memory()

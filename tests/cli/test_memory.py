"""The command line keeps freed memory, which a second pass then takes without page faults."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource
from dpdm.cli.memory import keep_freed_memory
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
    from dpdm.cli import memory

    monkeypatch.setattr(memory.ctypes, "CDLL", lambda name: object())
    memory.keep_freed_memory()

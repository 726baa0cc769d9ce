"""Memory: how much this process has taken at most, how much there is."""

from __future__ import annotations

import math
import resource
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from dpdm.errors import RequestError

_LABEL = 8


def peak_memory(device: torch.device) -> int:
    """Bytes: on a GPU of tensors there, else of the whole process, since it started."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated())
    return _peak(resource.RUSAGE_SELF)


def largest_child() -> int:
    """Bytes that the largest of the ended processes which this one began has taken at most."""
    return _peak(resource.RUSAGE_CHILDREN)


def _peak(whose: int) -> int:
    peak = resource.getrusage(whose).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def available_memory() -> float:
    """Bytes that processes can still take, by what Linux says of the machine and of the group of
    processes; without bound where it says nothing."""
    found = [math.inf]
    lines = _text(Path("/proc/meminfo")).splitlines()
    found += [1024.0 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    group = Path("/sys/fs/cgroup")
    most, taken = (_text(group / name).strip() for name in ("memory.max", "memory.current"))
    if most.isdecimal() and taken.isdecimal():
        found.append(float(most) - float(taken))
    return min(found)


def check_room(option: str, count: int, shape: Sequence[int]) -> None:
    """Refuses to make more images than memory holds, before long work is done in vain.

    Raises:
        RequestError: ``count``, which ``option`` named, is more; ``shape`` is an image's (uint8).
    """
    needed, there = count * (math.prod(shape) + _LABEL), available_memory()
    if needed > there:
        size = "x".join(map(str, shape))
        raise RequestError(
            f"{option} {count}: so many images of {size} take {needed / 2**30:.1f} GiB, and "
            f"{there / 2**30:.1f} are free; draw fewer at a time, each part with a seed of its own"
        )


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""

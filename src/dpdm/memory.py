"""Memory: how much this process has taken at most, how much there is."""

from __future__ import annotations

import math
import resource
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from dpdm.errors import RequestError

_LABEL = 8

_largest_together = 0
"""Bytes of this process and those working for it, at one time."""


def peak_memory(device: torch.device) -> int:
    """Bytes at most so far: on a GPU of tensors there, else of this process together with the
    processes that ``count_processes`` was told of."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated())
    return max(_bytes(_status("self"), "VmHWM") or _largest_resident(), _largest_together)


def resident_memory() -> int:
    """Bytes that this process holds now; 0 where the system does not say."""
    return _bytes(_status("self"), "VmRSS") or 0


@contextmanager
def saved_for_backward() -> Iterator[dict[int, int]]:
    """Storages that passes within keep for their backward pass, by address: bytes of each."""
    saved = dict[int, int]()

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield saved


def count_processes(pids: Iterable[int]) -> None:
    """Counts in ``peak_memory`` what running processes that work for this one have taken at most,
    beside what this one holds now; what they share with each other counts for each."""
    global _largest_together
    beside = sum(_bytes(_status(pid), "VmHWM") or 0 for pid in pids)
    _largest_together = max(_largest_together, resident_memory() + beside)


def _status(process: int | str) -> Path:
    """Where Linux says what a process takes, without what the one that began it took, which
    ``getrusage`` counts."""
    return Path("/proc") / str(process) / "status"


def _bytes(path: Path, field: str) -> int | None:
    """A field of a file of kilobytes by name; None where there is no such file or field."""
    for line in _text(path).splitlines():
        if line.startswith(f"{field}:"):
            return 1024 * int(line.split()[1])
    return None


def _largest_resident() -> int:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def available_memory() -> float:
    """Bytes that processes can still take, by what Linux says of the machine and of the group of
    processes; without bound where it says nothing."""
    free = _bytes(Path("/proc/meminfo"), "MemAvailable")
    found = [math.inf if free is None else float(free)]
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

"""Parts of the work side by side on a CPU: each core takes one of its own, with a single thread.

Of kernels that are split over the cores, each is waited for; and where other work takes a core for
a moment, all wait. Measured on 2 cores, one after the other with two threads and side by side with
one. Microbatches of a training, in bfloat16 (median ms): a step of the preset digits on an idle
machine 290 and 295, with five other processes at work 2,090 and 830; gradients and clipping of the
paper's U-Net, U=8, V=16, on an idle machine 1,321 and 1,208. Samples (images a second): of the
paper's U-Net 4.9 and 7.1, of a release of ``fashion-cpu-eps1`` 141 and 166, with one core taken 22
and 61.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


class Lanes:
    """So many calls at a time, each in a thread of its own in which torch uses one thread.

    A single lane is the calling thread, and torch uses all of its threads. A context manager: the
    threads, which the first ``map`` starts, end with it.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._of_thread = threading.local()
        self._pool: ThreadPoolExecutor | None = None

    @property
    def item(self) -> object:
        """What the call that asks was made for."""
        return self._of_thread.item

    def map(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """``function(item)`` of each, in order; ``item`` says within a call which."""

        def call(item: Item) -> Result:
            self._of_thread.item = item
            return function(item)

        if self.count == 1:
            return map(call, items)
        if self._pool is None:
            self._pool = self._started()
        return self._pool.map(call, items)

    def _started(self) -> ThreadPoolExecutor:
        pool = ThreadPoolExecutor(self.count, "lane")
        all_started = threading.Barrier(self.count)
        threads = torch.get_num_threads()

        def start(_: int) -> None:
            all_started.wait()
            torch.get_num_threads()  # torch sets a new thread's number when first asked for it
            torch.set_num_threads(1)

        list(pool.map(start, range(self.count)))
        torch.set_num_threads(threads)  # what threads that start later find
        return pool

    def __enter__(self) -> Lanes:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown()

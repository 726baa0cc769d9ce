"""Gradients of microbatches in processes of their own, where a training is long enough for it.

Threads share Python's interpreter lock, and wait for it between the many small kernels of a
network.

A process is given a copy of what takes the gradients, then the images of a microbatch at a time. It
answers with the losses, keeps the gradients, and clips and adds them up when the mechanism asks for
that; sums of all microbatches, noise and ledger stay where they were. Where a process cannot be
had, or is lost, the thread that asked does its work, with the same numbers.
"""

from __future__ import annotations

import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from contextlib import suppress
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dpdm.allocator import give_back_freed_memory
from dpdm.memory import available_memory, count_processes
from dpdm.privacy import ClippedSum, Elsewhere, Gradients, clip_and_sum
from dpdm.training.view_gradients import ViewGradients

_WORTH_SECONDS = 20.0
"""Of steps still to come: a start takes each core some three seconds."""

_OWN_BYTES = 2**30
"""Of a process: interpreter, torch, code, its share of the activations."""

_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from dpdm.training.worker_process import main; main([int(n) for n in sys.argv[2:]])"
)
_PATIENCE_SECONDS = 1.0


class Microbatch(NamedTuple):
    """What ``ViewGradients`` is called with."""

    step: int
    place: object
    images: Tensor
    labels: Tensor | None


class Clip(NamedTuple):
    """A request to clip the gradients of the last microbatch."""

    max_norm: float
    weights: Tensor | None


class Workers:
    """``gradients``, taken by ``count`` processes with a thread each once they are worth their
    start; before, and without them, in the thread that calls.

    A context manager: the processes end with it.

    Args:
        gradients: what is called.
        microbatch: units of a call, for what it takes of memory.
        count: how many calls there are at a time, each from a thread of its own.
    """

    def __init__(self, gradients: ViewGradients, microbatch: int, count: int) -> None:
        self.gradients, self.at_work = gradients, False
        self._microbatch, self._count = microbatch, count
        self._process: subprocess.Popen[bytes] | None = None
        self._telling: threading.Thread | None = None
        self._workers: list[_Worker] = []
        self._unclaimed: list[_Worker] = []
        self._of_thread = threading.local()
        self._tried = self._ended = False

    def prepare(self, seconds_left: float) -> None:
        """Between two steps: starts processes, sees whether they are ready, or has ready for them
        what the network's parameters are now."""
        if not self._tried and seconds_left > _WORTH_SECONDS:
            self._tried = True
            if self._possible():
                try:
                    self._start()
                except OSError:  # no process to be had: threads do it
                    self._stop()
        if self._workers and not self.at_work and all(worker.ready() for worker in self._workers):
            self._unclaimed, self.at_work = list(self._workers), True
            give_back_freed_memory()  # what passes through the network took here
        if self.at_work:
            named = self.gradients.denoiser.network.named_parameters()
            message = pickle.dumps({name: p.detach().numpy() for name, p in named})
            for worker in self._workers:
                worker.parameters = message

    def wait(self) -> bool:
        """Until started processes are ready, or lost; whether there are any."""
        while self._workers and not self.at_work:
            time.sleep(0.05)
            self.prepare(0.0)
        return self.at_work

    def __call__(
        self, step: int, place: object, images: Tensor, labels: Tensor | None
    ) -> tuple[Tensor, Gradients | Elsewhere]:
        """As ``ViewGradients``, but that a process may keep the gradients, until the calling
        thread's next call."""
        call = Microbatch(step, place, images, labels)
        self._go_on()
        if self.at_work:
            worker = self._own()
            losses = worker.answer(call)
            if losses is not None:
                return losses, _InWorker(self, worker, call)
            self.missed(worker)
        return self.gradients(*call)

    def missed(self, worker: _Worker) -> None:
        """Says once that a process did not answer."""
        self._go_on()
        if not worker.told:
            worker.told = True
            warnings.warn(
                "a process that took gradients was lost, as for want of memory: the training goes "
                "on in a thread, which is slower",
                stacklevel=3,
            )

    def _go_on(self) -> None:
        if self._ended:  # in the middle of a step: nobody waits for it
            raise RuntimeError("the training has ended")

    def _own(self) -> _Worker:
        worker: _Worker | None = getattr(self._of_thread, "worker", None)
        if worker is None:
            worker = self._of_thread.worker = self._unclaimed.pop()
        return worker

    def _possible(self) -> bool:
        parameters = list(self.gradients.denoiser.network.parameters())
        held = 8 * self._microbatch * sum(p.numel() for p in parameters)
        needed = self._count * (_OWN_BYTES + held)
        here = all(p.device.type == "cpu" for p in parameters)
        several = self._count > 1 and here and sys.platform == "linux" and bool(sys.executable)
        return several and needed < available_memory()

    def _start(self) -> None:
        """One process that imports torch, reads what takes the gradients, and forks the others."""
        theirs = []
        try:
            for _ in range(self._count):
                own, other = Pipe()
                self._workers.append(_Worker(own))
                theirs.append(other)
            descriptors = [connection.fileno() for connection in theirs]
            path = json.dumps([entry or str(Path.cwd()) for entry in sys.path])
            self._process = subprocess.Popen(
                [sys.executable, "-c", _START, path, *map(str, descriptors)],
                pass_fds=descriptors,
                env=os.environ | {"OMP_NUM_THREADS": "1"},
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the training, which ends its processes
            )
        finally:
            for connection in theirs:
                connection.close()
        # What does not fit the pipe waits until torch is imported there.
        job = pickle.dumps(self.gradients)
        self._telling = threading.Thread(target=_tell, args=(self._process, job), daemon=True)
        self._telling.start()

    def _stop(self) -> None:
        """Ends the processes, which have nothing to lose."""
        self.at_work = False
        for worker in self._workers:
            worker.leave()
        self._workers = []
        if self._process is not None:
            try:
                self._process.wait(_PATIENCE_SECONDS)
            except subprocess.TimeoutExpired:  # in the middle of a microbatch, or importing
                with suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
        if self._telling is not None:
            self._telling.join()

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = True
        count_processes(worker.pid for worker in self._workers if worker.pid is not None)
        self._stop()


class _InWorker(Elsewhere):
    def __init__(self, workers: Workers, worker: _Worker, call: Microbatch) -> None:
        self._workers, self._worker, self._call = workers, worker, call

    def clip_and_sum(self, max_norm: float, weights: Tensor | None) -> ClippedSum:
        found = self._worker.answer(Clip(max_norm, weights))
        if found is None:
            self._workers.missed(self._worker)
            _, gradients = self._workers.gradients(*self._call)
            return clip_and_sum(gradients, max_norm, weights)
        sums, norms, nonfinite = found
        return ClippedSum(
            {name: torch.from_numpy(total) for name, total in sums.items()}, norms, nonfinite
        )


class _Worker:
    """A process, seen from the training."""

    def __init__(self, connection: Connection) -> None:
        self.parameters: bytes | None = None
        self.pid: int | None = None
        self.told = self._lost = False
        self._connection = connection

    def ready(self) -> bool:
        """Whether the process has said who it is, or is lost."""
        if self.pid is None and not self._lost:
            try:
                if self._connection.poll():
                    self.pid = int(self._connection.recv_bytes())
            except (OSError, EOFError):
                self._lost = True
        return self.pid is not None or self._lost

    def answer(self, request: Microbatch | Clip) -> Any:
        """What the process says; None where it is lost."""
        if self._lost:
            return None
        try:
            if self.parameters is not None:
                self._connection.send_bytes(self.parameters)
                self.parameters = None
            self._connection.send_bytes(pickle.dumps(request))
            return pickle.loads(self._connection.recv_bytes())
        except (OSError, EOFError):
            self._lost = True
            return None

    def leave(self) -> None:
        """Ends the connection for both sides, whoever waits at it: there the process ends."""
        self._lost = True
        with suppress(OSError), socket.socket(fileno=os.dup(self._connection.fileno())) as end:
            end.shutdown(socket.SHUT_RDWR)


def _tell(process: subprocess.Popen[bytes], job: bytes) -> None:
    assert process.stdin is not None
    with suppress(OSError), process.stdin:  # a process that is lost is seen by its connections
        process.stdin.write(job)

"""What the processes of ``workers.py`` do until the training closes its end of the connections."""

from __future__ import annotations

import os
import pickle
import sys
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

import torch

from dpdm.allocator import keep_freed_memory
from dpdm.privacy import clip_and_sum
from dpdm.training.view_gradients import ViewGradients
from dpdm.training.workers import Clip, Microbatch


def main(descriptors: Sequence[int]) -> None:
    """Reads a ``ViewGradients`` from standard input, forks a process for each connection, and ends
    when the last of them has.

    Nothing was computed before, so that there are no threads that a fork would leave behind.
    """
    keep_freed_memory()
    torch.set_num_threads(1)
    take: ViewGradients = pickle.load(sys.stdin.buffer)
    for own in descriptors:
        if os.fork() == 0:
            for other in descriptors:
                if other != own:  # its closing must be seen at the other end
                    os.close(other)
            with suppress(EOFError, BrokenPipeError, ConnectionResetError):  # the training is over
                _serve(Connection(own), take)
            os._exit(0)
    for descriptor in descriptors:
        os.close(descriptor)
    with suppress(ChildProcessError):
        while True:
            os.wait()


def _serve(connection: Connection, take: ViewGradients) -> None:
    parameters = dict(take.denoiser.network.named_parameters())
    gradients: Any = None
    connection.send_bytes(str(os.getpid()).encode())
    while True:
        request = pickle.loads(connection.recv_bytes())
        answer: Any
        if isinstance(request, Microbatch):
            gradients = None  # their memory first
            answer, gradients = take(*request)
        elif isinstance(request, Clip):
            found = clip_and_sum(gradients, *request)
            sums = {name: total.numpy() for name, total in found.sums.items()}
            answer = (sums, found.norms, found.nonfinite)
        else:
            with torch.no_grad():
                for name, value in request.items():
                    parameters[name].copy_(torch.from_numpy(value))
            continue
        connection.send_bytes(pickle.dumps(answer))

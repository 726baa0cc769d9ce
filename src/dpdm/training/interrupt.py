"""Ctrl-C ends a run between two steps, with its state saved; a second Ctrl-C ends it at once."""

from __future__ import annotations

import os
import signal
import threading
from types import FrameType
from typing import Self

from dpdm.errors import DpdmError


class Interrupted(DpdmError):
    """The run was stopped by the user and its state is saved."""

    exit_status = 130


_SAID = (
    b"\nstopping once what is being done is saved; again ends at once, and statistics that are\n"
    b"being released are then spent for nothing\n"
)


class InterruptFlag:
    """Context manager: while it is open, the first SIGINT or SIGTERM only sets ``raised``."""

    def __init__(self) -> None:
        self.raised = False
        self._previous: dict[int, object] = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.raised:
            raise KeyboardInterrupt
        self.raised = True
        os.write(2, _SAID)

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *details: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._previous.clear()

"""The share of each phase in a step of DP-SGD at the settings of a preset.

    python benchmarks/training_step.py --case mnist digits --steps 3

Runs ``dpdm.train`` on random images of the preset's shape and number, with noise from the operating
system and a ledger on disk, and times the functions in ``PHASES`` from outside. The first step is
left out: in it kinds of calls are checked.

A whole step at the paper's MNIST settings takes half an hour on two cores. With ``--units`` the
Poisson draw gives fewer units than the settings ask for, and the phases that run once for each
microbatch are multiplied up; microbatches, views and what happens once a step stay as they are.
"""

from __future__ import annotations

import argparse
import importlib
import math
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from common import PROBLEMS, Results, parser, spread, table
from standin import standin

from dpdm import load_config, train
from dpdm.config import Config
from dpdm.privacy import NoiseSource
from dpdm.training.events import TrainingEvent

NETWORK = "forward and backward"
REST = "rest of the step"


class Phase(NamedTuple):
    """Functions whose own time, without that of other phases they call, is a phase.

    ``each_unit``: it grows with the units drawn, so that fewer can stand for all.
    """

    name: str
    functions: tuple[str, ...]
    each_unit: bool


PHASES = (
    Phase("ledger", ("dpdm.privacy.mechanisms:Session.spend",), False),
    Phase("Poisson draw", ("dpdm.privacy.noise:NoiseSource.poisson_mask",), False),
    Phase("gather", ("dpdm.privacy.units:PrivateUnits._gradients",), True),
    Phase("views", ("dpdm.training.view_gradients:_views",), True),
    Phase(NETWORK, ("dpdm.training.differentiation:Differentiation.__call__",), True),
    Phase("clip and sum", ("dpdm.privacy.mechanisms:clip_and_sum",), True),
    Phase("accumulate, divide", ("dpdm.privacy.mechanisms:DpSgdStep.release",), True),
    Phase(
        "noise",
        (
            "dpdm.privacy.mechanisms:DpSgdStep._add_noise",
            "dpdm.privacy.noise:NoiseSource.gaussian",
        ),
        False,
    ),
    Phase("optimiser", ("dpdm.networks:Adam.step",), False),
    Phase("moving average", ("dpdm.networks:EMA.update",), False),
    Phase("log line", ("dpdm.training.folder:RunFolder.append_metrics",), False),
)


class Clock:
    """Adds up the own time of the functions it wraps, by phase.

    ``units`` counts those that went through the network, padding included, ``microbatch`` the most
    at a time.
    """

    def __init__(self, settle: Callable[[], None]) -> None:
        self.seconds, self.units, self.microbatch = Counter[str](), 0, 0
        self._settle, self._inner = settle, list[float]()

    @contextmanager
    def wrapped(self) -> Iterator[None]:
        """Within it every function of PHASES is timed."""
        with ExitStack() as stack:
            for phase in PHASES:
                for path in phase.functions:
                    owner, name = _find(path)
                    timed = self._timed(phase.name, getattr(owner, name))
                    stack.enter_context(patch.object(owner, name, timed))
            yield

    def _timed(self, phase: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def timed(*arguments: Any, **named: Any) -> Any:
            self._settle()
            self._inner.append(0.0)
            started = time.perf_counter()
            result = function(*arguments, **named)
            self._settle()
            spent = time.perf_counter() - started
            self.seconds[phase] += spent - self._inner.pop()
            if self._inner:
                self._inner[-1] += spent
            if phase == NETWORK:
                self.units += len(result[0])
                self.microbatch = max(self.microbatch, len(result[0]))
            return result

        return timed


def _find(path: str) -> tuple[Any, str]:
    """The module or class that holds a function, and its name there."""
    module, _, names = path.partition(":")
    *owners, name = names.split(".")
    owner: Any = importlib.import_module(module)
    try:
        for each in owners:
            owner = getattr(owner, each)
        getattr(owner, name)
    except AttributeError:
        raise SystemExit(
            f"error: {path}: no such function any more; give PHASES in {__file__} its new name"
        ) from None
    return owner, name


class Step(NamedTuple):
    """What was measured of one step: units through the network, own seconds of each phase."""

    units: int
    seconds: dict[str, float]


def measure(config: Config, case: str, device: str, share: float) -> tuple[list[Step], int]:
    """The steps of a training on random images, but for the first; the microbatch.

    ``share`` of the units that the settings ask for are drawn.
    """
    steps: list[Step] = []
    clock = Clock(torch.cuda.synchronize if device == "cuda" else lambda: None)

    def told(event: TrainingEvent) -> None:
        record = event.record
        if record is None or record.phase != "DP-SGD":
            return
        seconds = dict(clock.seconds)
        own = sum(value for name, value in seconds.items() if name != "log line")
        steps.append(Step(clock.units, seconds | {REST: record.seconds - own}))
        clock.seconds.clear()
        clock.units = 0

    with ExitStack() as within:
        folder = within.enter_context(tempfile.TemporaryDirectory())
        within.enter_context(_fewer_units(share))
        within.enter_context(patch("dpdm.training.trainer.usable_lanes", return_value=1))
        within.enter_context(patch("dpdm.privacy.mechanisms.DrawnBeside", _drawn_later))
        within.enter_context(clock.wrapped())
        train(standin(PROBLEMS[case]), config, Path(folder) / "run", device=device, callback=told)
    return [step for step in steps[1:] if step.units], clock.microbatch


def _drawn_later(source: NoiseSource, *_: Any, **__: Any) -> NoiseSource:
    """In place of a draw beside the gradients: when it is asked for, so that its time is not theirs
    too."""
    return source


@contextmanager
def _fewer_units(share: float) -> Iterator[None]:
    """Within it a Poisson draw takes each unit with ``share`` of the probability asked for."""
    draw = NoiseSource.poisson_mask

    def fewer(source: NoiseSource, n: int, rate: float, **named: Any) -> Any:
        return draw(source, n, rate * share, **named)

    with patch.object(NoiseSource, "poisson_mask", fewer):
        yield


def multiplied(step: Step, factor: float) -> dict[str, float]:
    """Seconds of each phase, of those that grow with the units times ``factor``."""
    grows = {phase.name for phase in PHASES if phase.each_unit}
    return {n: s * factor if n in grows else s for n, s in step.seconds.items()}


def lines_of(
    steps: list[Step], microbatch: int, case: str, config: Config, share: float
) -> list[dict[str, Any]]:
    """A line for each phase, for all that is not the network together, and for the whole step."""
    batch_size = config.training.batch_size
    padded = math.ceil(batch_size / microbatch) * microbatch
    full = [multiplied(step, 1.0 if share == 1 else padded / step.units) for step in steps]
    totals = [sum(seconds.values()) for seconds in full]
    common = {
        "case": case,
        "batch_size": batch_size,
        "views": config.views.count,
        "microbatch": microbatch,
        "precision": config.training.precision,
        "units": statistics.median(step.units for step in steps),
        "steps": len(steps),
    }
    lines = []
    for name in (*(phase.name for phase in PHASES), REST, "outside the network", "whole step"):
        if name == "whole step":
            seconds = totals
        elif name == "outside the network":
            seconds = [total - each[NETWORK] for each, total in zip(full, totals, strict=True)]
        else:
            seconds = [each.get(name, 0.0) for each in full]
        shares = [part / total for part, total in zip(seconds, totals, strict=True)]
        lines.append(common | {"phase": name, "seconds": spread(seconds), "share": spread(shares)})
    return lines


HEADER = ("phase", "ms a step", "low", "high", "share")


def cells(line: dict[str, Any]) -> list[str]:
    """A line of results as a row of the table."""
    milliseconds = [f"{1e3 * line['seconds'][key]:.2f}" for key in ("median", "low", "high")]
    return [line["phase"], *milliseconds, f"{100 * line['share']['median']:.2f}%"]


def main() -> None:
    """Measures the cases asked for, prints their tables and appends their lines."""
    options = arguments()
    torch.set_num_threads(options.threads)
    results = Results.of("training_step", options)
    for case in options.case:
        # A step on the digits is short: it is measured whole, and more often.
        steps = options.steps * (5 if case == "digits" else 1)
        stop = [f"training.max_steps={steps + 1}", f"training.checkpoint_every={steps + 2}"]
        config = load_config(PROBLEMS[case].preset, [*stop, *options.set])
        batch_size = config.training.batch_size
        share = 1.0 if case == "digits" else min(1.0, options.units / batch_size)
        measured = measure(config, case, results.device, share)
        lines = [results.write(**line) for line in lines_of(*measured, case, config, share)]
        print(f"\n{case}, B={batch_size}, V={config.views.count}, {results.where}\n")
        print(table(HEADER, [cells(line) for line in lines]), flush=True)


def arguments() -> argparse.Namespace:
    """The command line."""
    made = parser(__doc__)
    made.add_argument("--case", nargs="*", choices=PROBLEMS, default=["mnist", "digits"])
    made.add_argument("--steps", type=int, help="3, with --quick 1; five times as many of digits")
    made.add_argument("--units", type=int, help="units drawn, but of digits; 32, with --quick 8")
    made.add_argument("--set", nargs="*", default=[], help="settings, as for dpdm run")
    options = made.parse_args()
    options.steps = options.steps or (1 if options.quick else 3)
    options.units = options.units or (8 if options.quick else 32)
    return options


if __name__ == "__main__":
    main()

"""Microbatches of a training on a CPU: one after the other with all threads, side by side in
threads, side by side in processes.

    python benchmarks/side_by_side.py --case digits fashion-cpu-eps10 --rounds 8

Gradients and clipping of as many microbatches as there are cores, of the size that a training
takes, on random images; the three ways take a round in turn.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import torch
from common import Results, parser, spread, table

from dpdm import load_config
from dpdm.config import Config
from dpdm.data import PublicFacts
from dpdm.diffusion.denoiser import Denoiser
from dpdm.lanes import Lanes
from dpdm.privacy import clip_and_sum
from dpdm.release.build import build_denoiser, stand_in_prior
from dpdm.release.precision import autocast_dtype, place
from dpdm.training.microbatch import resolve_microbatch
from dpdm.training.view_gradients import ViewGradients
from dpdm.training.workers import Workers

CASES = {
    "digits": (8, 1_437),
    "fashion-cpu-eps10": (28, 60_000),
    "mnist-eps10": (28, 60_000),
}
"""Presets, the side of their images and how many there are."""
CPU = torch.device("cpu")
WAYS = ("one after the other, all threads", "in threads", "in processes")


def made_gradients(config: Config, facts: PublicFacts) -> ViewGradients:
    """Those of the preset's network, moved from its first weights so that none is zero."""
    shape, classes = facts.image_shape, len(facts.classes)
    denoiser = build_denoiser(config, shape, classes, stand_in_prior(config, shape, classes))
    assert isinstance(denoiser, Denoiser)
    place(denoiser, CPU)
    denoiser.precision = autocast_dtype(config.training.precision, CPU)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in denoiser.network.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    return ViewGradients(config, denoiser, 0)


def measure(case: str, threads: int, rounds: int) -> list[dict[str, Any]]:
    """A line for each way."""
    side, size = CASES[case]
    config = load_config(case)
    facts = PublicFacts("random images", (side, side, 1), tuple("0123456789"), size, True)
    gradients = made_gradients(config, facts)
    with Lanes(threads) as lanes:
        units = resolve_microbatch(config, gradients.denoiser, facts, CPU, threads)
        generator = torch.Generator().manual_seed(0)
        images = torch.randint(256, (units, side, side, 1), generator=generator, dtype=torch.uint8)
        labels = torch.randint(10, (units,), generator=generator)
        with Workers(gradients, units, threads) as workers:

            def one(take: Callable[..., Any]) -> Callable[[int], None]:
                def call(number: int) -> None:
                    clip_and_sum(take(0, number, images, labels)[1], config.privacy.max_grad_norm)

                return call

            calls = {
                WAYS[0]: lambda: [one(gradients)(number) for number in range(threads)],
                WAYS[1]: lambda: list(lanes.map(one(gradients), range(threads))),
            }
            workers.prepare(float("inf"))
            if workers.wait():
                calls[WAYS[2]] = lambda: list(lanes.map(one(workers), range(threads)))
            seconds: dict[str, list[float]] = {way: [] for way in calls}
            for number in range(rounds + 2):
                for way, call in calls.items():
                    started = time.perf_counter()
                    call()
                    if number >= 2:  # before, kinds of calls are checked
                        seconds[way].append(time.perf_counter() - started)
    common = {"case": case, "units": units, "views": config.views.count, "rounds": rounds}
    rows = threads * units * config.views.count
    return [
        common
        | {"way": way, "seconds": spread(times)}
        | {"images_per_second": rows / spread(times)["median"]}
        for way, times in seconds.items()
    ]


HEADER = ("microbatches", "ms", "low", "high", "images/s")


def cells(line: dict[str, Any]) -> list[str]:
    """A line of results as a row of the table."""
    milliseconds = [f"{1e3 * line['seconds'][key]:.0f}" for key in ("median", "low", "high")]
    return [line["way"], *milliseconds, f"{line['images_per_second']:,.0f}"]


def main() -> None:
    """Measures the cases asked for, prints their tables and appends their lines."""
    options = arguments()
    torch.set_num_threads(options.threads)
    results = Results.of("side_by_side", options)
    if results.device != "cpu" or options.threads < 2:
        print("nothing to measure: microbatches go side by side on the cores of a CPU")
        return
    for case in options.case:
        lines = [results.write(**line) for line in measure(case, options.threads, options.rounds)]
        print(f"\n{case}, {options.threads} microbatches of {lines[0]['units']} units\n")
        print(table(HEADER, [cells(line) for line in lines]), flush=True)


def arguments() -> argparse.Namespace:
    """The command line."""
    made = parser(__doc__)
    made.add_argument("--case", nargs="*", choices=CASES, default=list(CASES))
    made.add_argument("--rounds", type=int, help="8, with --quick 2")
    options = made.parse_args()
    options.rounds = options.rounds or (2 if options.quick else 8)
    return options


if __name__ == "__main__":
    main()

"""Images a second of each sampler, with guidance and without.

    python benchmarks/sampling.py --case mnist digits --repeats 3

The network is that of a preset after one step of training on random images; what it has learnt does
not change the time. Few sampler steps are timed, in turn for all rows; images a second at the
preset's number of steps follow from evaluations of the denoiser, which are counted for both.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from common import PROBLEMS, Results, parser, spread, table
from standin import standin
from torch import Tensor, nn

import dpdm
from dpdm.diffusion.samplers import SAMPLERS
from dpdm.release.model import Model

GUIDANCE = (0.0, 3.0)
IMAGES = {"mnist": 32, "digits": 500, "cifar10": 16}
"""Images in the batch that is timed."""


class Counting(nn.Module):
    """A denoiser that gives zeros and counts the images it is asked about."""

    def __init__(self) -> None:
        super().__init__()
        self.images = 0

    def forward(self, x: Tensor, sigma: Tensor, labels: Tensor | None = None) -> Tensor:
        self.images += len(x)
        return torch.zeros_like(x)


def released(case: str, changes: list[str]) -> Model:
    """A model with the preset's network, made by one step of training on a few random images."""
    settings = [*changes, "training.max_steps=1", "views.count=1", "privacy.accountant=rdp"]
    if case != "digits":  # there a batch of the preset is small
        settings.append("training.batch_size=8")
    config = dpdm.load_config(PROBLEMS[case].preset, settings)
    with tempfile.TemporaryDirectory() as folder:
        run = dpdm.train(standin(PROBLEMS[case]), config, Path(folder) / "run")
        return run.model()


def evaluations(model: Model, sampler: str, guidance: float, steps: int) -> int:
    """Images through the denoiser for one image that is drawn."""
    counting = Counting()
    replace(model, denoiser=counting).sample(
        1, sampler=sampler, guidance=guidance, steps=steps, seed=0
    )
    return counting.images


def measure(model: Model, case: str, steps: int, repeats: int, device: str) -> list[dict[str, Any]]:
    """A line for each sampler and guidance; the first round warms up."""
    count = IMAGES[case]
    rows = [(sampler, guidance) for sampler in SAMPLERS for guidance in GUIDANCE]
    times: dict[tuple[str, float], list[float]] = {row: [] for row in rows}
    for repeat in range(repeats + 1):
        for sampler, guidance in rows:
            started = time.perf_counter()
            model.sample(
                count,
                sampler=sampler,
                guidance=guidance,
                steps=steps if repeat else 1,
                seed=repeat,
                batch_size=count,
                device=device,
            )
            if repeat:  # images come back to the CPU: nothing is left to wait for
                times[sampler, guidance].append(time.perf_counter() - started)
    whole = model.config.sampling.steps
    lines = []
    for (sampler, guidance), seconds in times.items():
        short = evaluations(model, sampler, guidance, steps)
        full = evaluations(model, sampler, guidance, whole)
        rate = count * short / statistics.median(seconds)
        lines.append(
            {
                "case": case,
                "sampler": sampler,
                "guidance": guidance,
                "precision": model.config.sampling.precision,
                "images": count,
                "steps_timed": steps,
                "seconds": spread(seconds),
                "evaluations_per_second": rate,
                "steps": whole,
                "evaluations_per_image": full,
                "images_per_second": rate / full,
            }
        )
    return lines


HEADER = (
    "sampler",
    "guidance",
    "evaluations/s",
    "low",
    "high",
    "steps",
    "evaluations/image",
    "images/s",
)


def cells(line: dict[str, Any]) -> list[str]:
    """A line of results as a row of the table."""
    seconds, rate = line["seconds"], line["evaluations_per_second"]
    rates = [rate, *(rate * seconds["median"] / seconds[key] for key in ("high", "low"))]
    return [
        line["sampler"],
        f"{line['guidance']:g}",
        *(f"{value:.1f}" for value in rates),
        str(line["steps"]),
        str(line["evaluations_per_image"]),
        f"{line['images_per_second']:.2f}",
    ]


def main() -> None:
    """Measures the cases asked for, prints their tables and appends their lines."""
    options = arguments()
    torch.set_num_threads(options.threads)
    results = Results.of("sampling", options)
    for case in options.case:
        made = measure(
            released(case, options.set), case, options.steps, options.repeats, results.device
        )
        lines = [results.write(**line) for line in made]
        print(f"\n{case}, batches of {IMAGES[case]}, {results.where}\n")
        print(table(HEADER, [cells(line) for line in lines]), flush=True)


def arguments() -> argparse.Namespace:
    """The command line."""
    made = parser(__doc__)
    made.add_argument("--case", nargs="*", choices=PROBLEMS, default=["mnist", "digits"])
    made.add_argument("--repeats", type=int, help="3, with --quick 1")
    made.add_argument("--steps", type=int, help="sampler steps that are timed; 4, with --quick 2")
    made.add_argument("--set", nargs="*", default=[], help="settings, as for dpdm run")
    options = made.parse_args()
    options.repeats = options.repeats or (1 if options.quick else 3)
    options.steps = options.steps or (2 if options.quick else 4)
    return options


if __name__ == "__main__":
    main()

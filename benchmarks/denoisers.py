"""Where each denoiser of a preset is wrong: squared error by noise level, on held-out images.

    python benchmarks/denoisers.py fashion-10 --data FOLDER --work DIR
    python benchmarks/denoisers.py fashion-10 --data FOLDER --set training.steps=300 views.count=4

Trains the preset on 50,000 training images (the run of `recipes.py --held-out`, from where it was
left) and gives 2,000 of the others noise: the prior's posterior mean, the network before its
gradient steps and the network after them estimate the image, its true class known. Prints the mean
squared error x 1000, in [-1, 1], as a table: all cells are of the same images, those of a column of
the same noise. It measures denoisers, not samples.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import recipes
import torch
from common import run_command, table
from torch import Tensor

from dpdm import pipeline
from dpdm.data import Dataset
from dpdm.diffusion.images import to_model_space
from dpdm.release.model import Model

LEVELS = (0.1, 0.2, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 3.0, 5.0, 10.0)
IMAGES, _BATCH = 2_000, 250


@torch.no_grad()
def error(model: Model, images: Tensor, labels: Tensor, level: float) -> float:
    """Mean squared error of a model's estimates of ``images`` (N, C, H, W) under noise."""
    generator = torch.Generator().manual_seed(0)
    total = 0.0
    for clean, named in zip(images.split(_BATCH), labels.split(_BATCH), strict=True):
        noised = clean + level * torch.randn(clean.shape, generator=generator)
        estimate = model.denoiser(noised, torch.full((len(clean),), level), named)
        total += float((estimate - clean).square().mean(dim=(1, 2, 3)).sum())
    return total / len(images)


def errors(model: Model, data: Dataset, levels: Sequence[float]) -> list[float]:
    """Of the first images of a data set, a value for each noise level."""
    assert data.private_labels is not None
    images = to_model_space(data.private_images[:IMAGES])
    labels = torch.from_numpy(data.private_labels[:IMAGES])
    return [error(model, images, labels, level) for level in levels]


def made_parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("row", choices=recipes.ROWS)
    parser.add_argument("--data", type=Path, help="folder that holds mnist/ and fashion/")
    parser.add_argument("--work", type=Path, default=Path("runs/recipes"))
    parser.add_argument("--levels", type=float, nargs="+", default=LEVELS)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--set", nargs="*", default=[], help="other settings of the preset")
    return parser


def main() -> None:
    """Trains, measures and prints the table."""
    options = made_parser().parse_args()
    name, epsilon = options.row.split("-")
    torch.set_num_threads(options.threads)
    data, others = recipes.held_out(recipes.open_set(name, options.data)[0])
    work = options.work / recipes.HELD_OUT
    run = recipes.train_row(name, epsilon, recipes.PRESET, 0, data, work, options.set)
    rows = [
        [
            stage.name,
            *(f"{1000 * value:.4g}" for value in errors(stage.model, others, options.levels)),
        ]
        for stage in pipeline.stage_models(run)
        if stage.model.labeller is None  # with it, the denoiser is the one before
    ]
    print(table(("denoiser", *(f"{level:g}" for level in options.levels)), rows))


if __name__ == "__main__":
    run_command(main)

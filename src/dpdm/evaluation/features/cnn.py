"""Features for tiny images without Inception: the last hidden layer of the paper's CNN.

The CNN (three convolutions, dense 128) is trained as the downstream classifiers are, but on REAL
images: on a half of the test set, drawn with a fixed seed. Neither the synthetic images nor the
training set that they are compared with take part in it, so neither side is favoured. Where a
hold-out is compared in these features, it is the other half, which the network has not seen either.
Its 128 features, and its predictions of what a synthetic image shows, depend on the test set, and
are comparable only between evaluations that share it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from dpdm.evaluation.classifiers import (
    ConvolutionalClassifier,
    Images,
    Labels,
    network_input,
    train_classifier,
)
from dpdm.evaluation.features.extractor import Extractor
from dpdm.evaluation.progress import ProgressCallback
from dpdm.hashing import content_hash

NAME = "cnn"
FEWEST = 50
"""Test images below which a half is too little to train on."""
_BATCH = 1000
_VERSION = 1  # to be raised with a change to the training of the CNN, so that caches start anew


@dataclass(frozen=True, eq=False)
class Judge:
    """The CNN trained on a half of the real test images."""

    extractor: Extractor
    predict: Callable[[Images], Labels]
    """uint8 (N, H, W, C) to class numbers int64 (N,)."""
    unseen: NDArray[np.intp]
    """Which test images it was not trained on."""


def train_judge(
    images: Images,
    labels: Labels,
    classes: int,
    progress: ProgressCallback | None = None,
) -> Judge:
    """Train the CNN on a seeded half of real test images, N >= ``FEWEST``; the other is unseen."""
    order = np.random.default_rng(0).permutation(len(images))
    seen, unseen = np.sort(order[: len(order) // 2]), np.sort(order[len(order) // 2 :])
    trained = train_classifier(
        "cnn",
        images[seen],
        labels[seen],
        classes,
        on_epoch=None
        if progress is None
        else lambda done, total: progress("training the CNN of the features", done, total),
    )
    network = trained.module
    assert isinstance(network, ConvolutionalClassifier)
    last_hidden = network.head[:-1].eval()

    @torch.no_grad()
    def compute(given: Images) -> NDArray[np.float32]:
        parts = (given[start : start + _BATCH] for start in range(0, len(given), _BATCH))
        rows = [last_hidden(network.features(network_input(part))) for part in parts]
        return torch.cat(rows).numpy()

    weights = [value.numpy() for value in network.state_dict().values()]
    extractor = Extractor(
        name=NAME,
        fingerprint=content_hash("cnn", _VERSION, *weights),
        description=(
            f"the last hidden layer (128) of the paper's CNN, trained on {len(seen):,} real test "
            "images, drawn with a fixed seed"
        ),
        compute=compute,
    )
    return Judge(extractor, trained.predict, unseen)

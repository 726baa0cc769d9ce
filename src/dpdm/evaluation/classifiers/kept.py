"""Trained classifiers kept by the content they came from, so that an evaluation resumes.

The key of a classifier covers images, labels, recipe and seed, and where an onlooker watched it
also what that one looked at; that of its predictions on a test set covers both.
"""

from __future__ import annotations

import time
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from dpdm.evaluation.classifiers.training import (
    ClassifierName,
    EpochCallback,
    Images,
    Labels,
    LinearModel,
    TrainedClassifier,
    build_network,
    recipe,
    train_classifier,
)
from dpdm.evaluation.store import Store
from dpdm.hashing import content_hash

Array = NDArray[np.float64]

_FORMAT = 1
"""To be raised with every change of how a classifier is trained or written down."""

_HEADER = 4  # held-out accuracy, epochs, seconds, how often an onlooker looked


class Kept(NamedTuple):
    """A classifier, the seconds that its training took when it was trained, and its key."""

    classifier: TrainedClassifier
    seconds: float
    key: str


class ClassifierStore:
    """Classifiers of one labelled set of images; ``store`` without a folder keeps nothing."""

    def __init__(self, store: Store, images: Images, labels: Labels, classes: int) -> None:
        self._store, self._images, self._labels, self._classes = store, images, labels, classes
        self._content = content_hash("classifier", _FORMAT, classes, images, labels)

    def train(
        self,
        name: ClassifierName,
        seed: int,
        on_epoch: EpochCallback | None = None,
        onlooker: tuple[Images, Labels] | None = None,
    ) -> Kept:
        """As :func:`train_classifier`, unless it is there already."""
        plan = recipe(name, len(self._images))
        key = content_hash(self._content, name, repr(plan), seed, *(onlooker or ()))
        kept = True

        def trained() -> Array:
            nonlocal kept
            kept = False
            started = time.perf_counter()
            found = train_classifier(
                name,
                self._images,
                self._labels,
                self._classes,
                seed=seed,
                on_epoch=on_epoch,
                onlooker=onlooker,
            )
            return _to_array(found, time.perf_counter() - started)

        array = self._store.array(key, trained)
        if kept and on_epoch is not None:
            on_epoch(1, 1)
        found = _from_array(name, array, self._images.shape[1:], self._classes)
        return Kept(found, float(array[2]), key)

    def predict(self, kept: Kept, images: Images) -> Labels:
        """What a classifier says of images, (N,), unless it has said so before."""
        key = content_hash(kept.key, "predictions", images)
        return self._store.array(key, lambda: kept.classifier.predict(images))


def _to_array(trained: TrainedClassifier, seconds: float) -> Array:
    accuracy = np.nan if trained.held_out_accuracy is None else trained.held_out_accuracy
    header = [accuracy, trained.epochs, seconds, len(trained.looked_at), *trained.looked_at]
    model = trained.model
    if isinstance(model, LinearModel):
        parts = [[len(model.classes)], model.classes, model.weights.ravel(), model.intercepts]
    else:
        parts = [value.numpy().ravel() for value in model.state_dict().values()]
    return np.concatenate([np.asarray(part, np.float64) for part in (header, *parts)])


def _from_array(
    name: ClassifierName, array: Array, shape: tuple[int, ...], classes: int
) -> TrainedClassifier:
    looks = int(array[3])
    rest, seen = array[_HEADER + looks :], tuple(map(float, array[_HEADER:][:looks]))
    accuracy = None if np.isnan(array[0]) else float(array[0])
    model: nn.Module | LinearModel
    if name == "lr":
        count = int(rest[0])
        rows = 0 if count == 1 else 1 if count == 2 else count
        values = rest[1 + count :]
        split = rows * int(np.prod(shape))
        weights = values[:split].reshape(rows, -1) if rows else np.empty((0, int(np.prod(shape))))
        model = LinearModel(rest[1 : 1 + count].astype(np.int64), weights, values[split:])
    else:
        # Every tensor is overwritten, so the generator's state does not matter.
        model = build_network(name, shape, classes, torch.Generator())
        state = model.state_dict()
        sizes = np.cumsum([value.numel() for value in state.values()])[:-1]
        for value, part in zip(state.values(), np.split(rest, sizes), strict=True):
            value.copy_(torch.from_numpy(part).reshape(value.shape))
    return TrainedClassifier(name, model, accuracy, int(array[1]), seen)

"""Metric ``classifiers``: accuracy on real test images of classifiers trained on synthetic ones.

The protocol of Table 1 of the DPDM paper (arXiv 2210.09929): models are chosen on held-out
synthetic images. The real test set is read once, after the last choice; choosing by it, as much of
the literature does, spends privacy that nobody accounts for and flatters the result (DPImageBench).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpdm.errors import RequestError
from dpdm.evaluation.checks import DatasetLike, Images, Labels
from dpdm.evaluation.classifiers import (
    CLASSIFIER_NAMES,
    ClassifierName,
    TrainedClassifier,
    train_classifier,
)

ProgressCallback = Callable[[str, int, int], None]

MOST_CLASSES = 100
"""Of more classes no confusion matrix is given."""


def measure_classifiers(
    images: Images,
    labels: Labels,
    test: DatasetLike,
    seeds: int,
    seed: int,
    progress: ProgressCallback | None,
) -> dict[str, Any]:
    """The entries of ``Evaluation`` that classifiers give."""
    classes = test.classes
    trained, seconds = _train_all(images, labels, len(classes), seeds, seed, progress)

    # From here on every model is chosen; the test set is read for the first time, once.
    test_images, test_labels = test.private_images, test.private_labels
    if test_labels is None:
        raise RequestError("the test set has no labels; metric classifiers needs a labelled one")
    result: dict[str, Any] = {
        "accuracy": {},
        "per_class": {},
        "test_images": len(test_images),
        "seeds": seeds,
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
    }
    spread: dict[str, float] = {}
    predictions: dict[str, NDArray[np.int64]] = {}
    for name, models in trained.items():
        predictions[name] = np.stack([model.predict(test_images) for model in models])
        hits = predictions[name] == test_labels
        accuracies = hits.mean(1)
        result["accuracy"][name] = float(accuracies.mean())
        result["per_class"][name] = {
            label: float(hits[:, test_labels == number].mean())
            for number, label in enumerate(classes)
            if (test_labels == number).any()
        }
        if len(models) > 1:
            spread[name] = float(accuracies.std(ddof=1))
    if spread:
        result["accuracy_spread"] = spread
    if len(classes) <= MOST_CLASSES:
        best = best_classifier(result["accuracy"])
        result["confusion"] = _confusion(best, predictions[best], test_labels, classes)
    return result


def best_classifier(accuracy: Mapping[str, float]) -> str:
    """The classifier with the highest accuracy; of equal ones the first."""
    return max(accuracy, key=lambda name: accuracy[name])


def _confusion(
    name: str, predicted: NDArray[np.int64], actual: Labels, classes: tuple[str, ...]
) -> dict[str, Any]:
    """Counts of test images by class (rows) and by prediction (columns), all seeds together."""
    counts = np.zeros((len(classes), len(classes)), np.int64)
    for row in predicted:
        np.add.at(counts, (actual, row), 1)
    return {"classifier": name, "classes": list(classes), "counts": counts.tolist()}


def _train_all(
    images: Images,
    labels: Labels,
    classes: int,
    seeds: int,
    seed: int,
    progress: ProgressCallback | None,
) -> tuple[dict[ClassifierName, list[TrainedClassifier]], dict[str, float]]:
    trained: dict[ClassifierName, list[TrainedClassifier]] = {}
    seconds: dict[str, float] = {}
    for name in CLASSIFIER_NAMES:
        # Logistic regression has no randomness: one training stands for every seed.
        repeats = 1 if name == "lr" else seeds
        start = time.perf_counter()
        trained[name] = []
        for repeat in range(repeats):
            what = name if repeats == 1 else f"{name}, seed {repeat + 1} of {repeats}"
            if progress is not None:
                progress(what, 0, 1)
            trained[name].append(
                train_classifier(
                    name,
                    images,
                    labels,
                    classes,
                    seed=_child_seed(seed, name, repeat),
                    on_epoch=None if progress is None else _epoch_progress(progress, what),
                )
            )
        seconds[name] = time.perf_counter() - start
    return trained, seconds


def _epoch_progress(progress: ProgressCallback, what: str) -> Callable[[int, int], None]:
    return lambda done, total: progress(what, done, total)


def _child_seed(seed: int, name: ClassifierName, repeat: int) -> int:
    entropy = (seed, CLASSIFIER_NAMES.index(name), repeat)
    return int(np.random.SeedSequence(entropy).generate_state(1)[0])


def classifier_notes(labels: Labels, classes: tuple[str, ...], seeds: int) -> list[str]:
    """What a reader should know before trusting the accuracies."""
    notes = [
        "Classifiers were trained and chosen on synthetic images only; "
        "the chosen ones read the real test set once."
    ]
    absent = [name for number, name in enumerate(classes) if not (labels == number).any()]
    if absent:
        shown = ", ".join(absent[:5]) + (" and others" if len(absent) > 5 else "")
        notes.append(f"{len(absent)} of {len(classes)} classes have no synthetic image: {shown}.")
    if seeds == 1:
        notes.append("One seed: differences within about one point may be chance.")
    return notes

"""Metric ``per-class``: balance, agreement, coverage and Frechet distance within each class.

What a synthetic image shows is said by the CNN that was trained on real test images (the judge of
``features.cnn``); how often it is right on those it has not seen is given beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from dpdm.evaluation.checks import Images, Labels
from dpdm.evaluation.classification import best_classifier
from dpdm.evaluation.distances import Measuring
from dpdm.evaluation.features import Extractor, FeatureSet
from dpdm.evaluation.features.cnn import Judge
from dpdm.evaluation.metrics.classes import served_worse
from dpdm.evaluation.metrics.manifold import COVERAGE_K

COVERAGE_MARGIN = 0.1
"""Balls overlap, so that coverage varies by more than a share of independent images would: only
classes this much below the whole are named."""


def balance(
    images: Images,
    labels: Labels,
    classes: tuple[str, ...],
    judge: Judge,
    test: tuple[Images, Labels],
) -> dict[str, Any]:
    """For each class, images asked for, images predicted, and how many agree."""
    predicted = judge.predict(images)
    test_images, test_labels = test
    unseen = judge.predict(test_images[judge.unseen]) == test_labels[judge.unseen]
    entries: dict[str, dict[str, int | float]] = {}
    for number, name in enumerate(classes):
        asked = labels == number
        entries[name] = {
            "asked": int(asked.sum()),
            "predicted": int((predicted == number).sum()),
        }
        if asked.any():
            entries[name]["agreement"] = float((predicted[asked] == number).mean())
    return {"classes": entries, "judge_accuracy": float(unseen.mean())}


def within_classes(
    synthetic: tuple[FeatureSet, Labels],
    real: tuple[FeatureSet, Labels],
    classes: tuple[str, ...],
    extractor: Extractor,
    measuring: Measuring,
) -> dict[str, dict[str, Any]]:
    """For each class, coverage and Frechet distance between its synthetic and its real images.

    A class with too few of either has none: more than 5 are needed.
    """
    result: dict[str, dict[str, Any]] = {}
    quiet = Measuring(measuring.store)
    for number, name in enumerate(classes):
        measuring.tell("within classes", number, len(classes))
        mine = synthetic[0].part(np.flatnonzero(synthetic[1] == number))
        theirs = real[0].part(np.flatnonzero(real[1] == number))
        if min(len(mine.values), len(theirs.values)) > COVERAGE_K:
            found = quiet.manifold(mine, theirs, f"class {name}")
            result[name] = {
                "coverage": found.coverage,
                extractor.frechet: quiet.frechet(mine, theirs, f"class {name}"),
            }
    measuring.tell("within classes", len(classes), len(classes))
    return result


def worse_served(
    evaluation: Mapping[str, Any],
    classes: tuple[str, ...],
    test_labels: Labels | None,
    train_labels: Labels | None,
) -> list[dict[str, Any]]:
    """The classes whose accuracy or coverage is below that of all classes together, beyond chance.

    Each with ``class``, ``by`` (which measure), ``share`` and ``overall``.
    """
    found: list[dict[str, Any]] = []
    if "per_class" in evaluation and test_labels is not None:
        best = best_classifier(evaluation["accuracy"])
        shares = evaluation["per_class"][best]
        found += _named(f"accuracy of {best}", shares, classes, test_labels, 0.0)
    coverage = {
        name: entry["coverage"]
        for name, entry in evaluation.get("classes", {}).items()
        if "coverage" in entry
    }
    if train_labels is not None:
        found += _named("coverage", coverage, classes, train_labels, COVERAGE_MARGIN)
    return found


def _named(
    by: str,
    shares: Mapping[str, float],
    classes: tuple[str, ...],
    labels: Labels,
    margin: float,
) -> list[dict[str, Any]]:
    counts = dict(zip(classes, np.bincount(labels, minlength=len(classes)).tolist(), strict=True))
    worse = served_worse({name: (share, counts[name]) for name, share in shares.items()})
    return [
        {"class": entry.name, "by": by, "share": entry.share, "overall": entry.overall}
        for entry in worse
        if entry.share < entry.overall - margin
    ]

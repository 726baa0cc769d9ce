"""The metrics that compare images by features: which extractors they use, and in which order."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np

from dpdm.errors import RequestError
from dpdm.evaluation.by_class import balance, within_classes, worse_served
from dpdm.evaluation.checks import OF_TRAIN, DatasetLike, Images, Labels
from dpdm.evaluation.closeness import LabelsOf, Space, measure_memorisation
from dpdm.evaluation.comparison import Sets, bias_note, compare, real_and_synthetic, score
from dpdm.evaluation.distances import Measuring
from dpdm.evaluation.features import INCEPTION_ABSENT, PIXELS, Choice, Extractor, choose
from dpdm.evaluation.features.cnn import FEWEST, Judge, train_judge
from dpdm.evaluation.metrics.memorisation import FEWEST_HELD_OUT

OF_FEATURES = ("fid", "kid", "prdc", "is", "per-class", "memorisation")
_OF_INCEPTION = ("fid", "kid", "is")

Synthetic = tuple[Images, Labels | None]


@dataclass(frozen=True)
class RealSets:
    """The real training set and the real test set, each where it was given."""

    train: DatasetLike | None
    test: DatasetLike | None


def measure_features(
    result: dict[str, Any],
    asked: tuple[str, ...],
    synthetic: Synthetic,
    real: RealSets,
    features: Sequence[str | Extractor],
    inception: Extractor | None,
    measuring: Measuring,
) -> None:
    """Add to ``result``, an ``Evaluation``, what features give; ``asked`` was checked before."""
    judge = cache(lambda: _trained_judge(real.test, measuring))
    choice = Choice(())
    if set(asked) & set(OF_TRAIN):
        choice = choose(features, inception, judge)
        result["features"] = {one.name: one.description for one in choice.extractors}
        if not choice.extractors:
            result["notes"].append(
                "No features to compare by: there is no Inception network, no network was named, "
                f"and no labelled test set of {FEWEST} images or more to train the CNN on."
            )
    if inception is None and set(asked) & set(_OF_INCEPTION):
        result["notes"].append(INCEPTION_ABSENT)
    if "is" in asked and inception is not None:
        result |= score(inception, synthetic[0], measuring)
    if real.train is None:
        return
    train_images = real.train.private_images
    result["train_images"] = len(train_images)
    sets = real_and_synthetic(synthetic[0], train_images, measuring)
    result |= compare(asked, choice, sets, measuring)
    if "fid" in asked and choice.extractors:
        result["notes"].append(bias_note(len(synthetic[0]), len(train_images)))
    if "per-class" in asked:
        _per_class(result, synthetic, real, choice, judge, sets, measuring)
    if "memorisation" in asked:
        _memorisation(result, synthetic, real.train, real.test, choice, judge, measuring)


def _trained_judge(test: DatasetLike | None, measuring: Measuring) -> Judge | None:
    if test is None or test.private_labels is None or len(test.private_images) < FEWEST:
        return None
    return train_judge(
        test.private_images, test.private_labels, len(test.classes), measuring.progress
    )


def _per_class(
    result: dict[str, Any],
    synthetic: Synthetic,
    real: RealSets,
    choice: Choice,
    judge: Callable[[], Judge | None],
    sets: Sets,
    measuring: Measuring,
) -> None:
    images, labels = synthetic
    train, test, trained = real.train, real.test, judge()
    assert labels is not None
    assert train is not None
    assert test is not None
    train_labels, test_labels = train.private_labels, test.private_labels
    if trained is None or test_labels is None or train_labels is None or choice.main is None:
        raise RequestError(
            f"metric per-class needs labelled sets, and {FEWEST} real test images or more; the "
            f"test set has {len(test.private_images)}"
        )
    result["test_images"] = len(test.private_images)
    result |= balance(images, labels, test.classes, trained, (test.private_images, test_labels))
    mine, theirs = sets(choice.main)
    within = within_classes(
        (mine, labels), (theirs, train_labels), test.classes, choice.main, measuring
    )
    for name, entry in within.items():
        result["classes"][name] |= entry
    result["served_worse"] = worse_served(result, test.classes, test_labels, train_labels)


def _memorisation(
    result: dict[str, Any],
    synthetic: Synthetic,
    train: DatasetLike,
    test: DatasetLike | None,
    choice: Choice,
    judge: Callable[[], Judge | None],
    measuring: Measuring,
) -> None:
    assert test is not None
    test_images = test.private_images
    result["test_images"] = len(test_images)
    everything = np.arange(len(test_images))
    spaces = [Space(PIXELS, everything)]
    main = choice.main
    if main is not None and main.name != PIXELS.name:
        trained = judge() if main.name == "cnn" else None
        own = trained is not None and main is trained.extractor
        held_out = trained.unseen if trained is not None and own else everything
        if len(held_out) >= FEWEST_HELD_OUT:
            spaces.append(Space(main, held_out))
    labels = None
    if train.private_labels is not None and test.private_labels is not None:
        labels = LabelsOf(train.private_labels, test.private_labels, synthetic[1])
    result["memorisation"] = measure_memorisation(
        synthetic[0], train.private_images, test_images, spaces, measuring, labels
    )

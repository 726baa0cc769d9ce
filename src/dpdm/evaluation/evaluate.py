"""What a synthetic set is worth, measured on real images: every metric from one call."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict, cast

from dpdm.evaluation.baselines import Baseline, baseline_note, check_baseline, measure_baseline
from dpdm.evaluation.by_features import OF_FEATURES, RealSets, measure_features
from dpdm.evaluation.checks import (
    DatasetLike,
    Images,
    Labels,
    check_labels,
    check_metrics,
    check_needs,
    check_together,
    open_synthetic,
)
from dpdm.evaluation.classification import (
    Protocol,
    Selection,
    classifier_notes,
    classifiers_asked,
    measure_classifiers,
    without_classification,
)
from dpdm.evaluation.classifiers import CLASSIFIER_NAMES
from dpdm.evaluation.distances import Measuring
from dpdm.evaluation.features import INCEPTION_ABSENT, Extractor, find_inception
from dpdm.evaluation.progress import ProgressCallback
from dpdm.evaluation.store import Store

DEFAULT_METRICS = ("classifiers",)


class Evaluation(TypedDict, total=False):
    """The object of ``dpdm evaluate --json``; plain JSON types, fractions of 1.

    Every entry is there only where it was asked for and could be computed. Beside those named here,
    networks other than Inception give ``fd-NAME``, ``kd-NAME`` and ``kd-NAME_spread``.

    All of it is measured on real data without noise: it belongs on the private side.
    """

    accuracy: dict[str, float]
    """``lr``, ``mlp``, ``cnn``: share of real test images classified rightly, mean over seeds."""
    accuracy_spread: dict[str, float]
    """Sample standard deviation over seeds of ``mlp`` and ``cnn``; only with two seeds or more."""
    per_class: dict[str, dict[str, float]]
    """For each classifier, the accuracy within each class that occurs in the test set."""
    confusion: dict[str, Any]
    """``classifier`` (the best), ``classes``, ``counts``: rows are classes, columns predictions,
    all seeds together; of at most 100 classes."""
    seeds: int
    seconds: dict[str, float]
    """Training time of each classifier, all seeds together, as it was measured when trained."""
    selection: str
    """``synthetic`` or ``test``; ``accuracy`` is chosen on held-out synthetic images in both."""
    accuracy_chosen_on_test: dict[str, float]
    """Only with ``selection=test``: the literature's optimistic figure, the best epoch by the real
    test images themselves, mean over seeds. Never below ``accuracy``."""
    baseline: dict[str, Any]
    """``method``, ``epsilon``, ``delta``, ``accuracy``, ``accuracy_spread``, what was spent
    (``epsilon_spent`` by each classifier, ``epsilon_composed`` by all in the folder),
    ``settings``; ``difference`` of ``accuracy`` to its own."""
    fid: float
    """Against the training set, with the Inception network; ``fd-NAME`` with another."""
    kid: float
    """With the Inception network, mean of 100 subsets of 1,000; ``kd-NAME`` with another."""
    kid_spread: float
    precision: float
    recall: float
    density: float
    coverage: float
    prdc_features: str
    """In which features the four were computed."""
    is_spread: float
    classes: dict[str, dict[str, Any]]
    """For each class: images ``asked`` for, ``predicted`` and the share of ``agreement``;
    ``coverage`` and ``fid`` or ``fd-NAME`` within it."""
    judge_accuracy: float
    """Accuracy of the CNN that predicts these, on real images that it has not seen."""
    served_worse: list[dict[str, Any]]
    memorisation: dict[str, Any]
    """``flagged``, ``verdict``, ``spaces`` (for each, its figures) and ``pairs``."""
    features: dict[str, str]
    """For each feature network by name, what it is."""
    synthetic_images: int
    train_images: int
    test_images: int
    notes: list[str]
    """One line each: what a reader should know before trusting the numbers."""


def evaluate(
    synthetic: tuple[Images, Labels | None] | DatasetLike,
    *,
    train: DatasetLike | None = None,
    test: DatasetLike | None = None,
    metrics: Iterable[str] = DEFAULT_METRICS,
    seeds: int = 1,
    seed: int = 0,
    classifiers: str | Sequence[str] = CLASSIFIER_NAMES,
    selection: Selection = "synthetic",
    baseline: Baseline | None = None,
    inception: str | None = None,
    features: str | Sequence[str | Extractor] = (),
    cache: Path | None = None,
    progress: ProgressCallback | None = None,
) -> Evaluation:
    """Measure a synthetic set against real data.

    synthetic: (images uint8 (N, H, W, C) or (N, H, W), labels int (N,)), or a data set opened from
    a file of samples. train: the real training set; test: the real test set, which is also the
    hold-out of ``memorisation``. metrics: any of ``AVAILABLE_METRICS``.
    seeds: how many times the classifiers with randomness in them are trained; seed: the first.
    classifiers: any of ``AVAILABLE_CLASSIFIERS``. selection: with "test", the accuracy of epochs
    chosen by the test set itself stands beside the honest one, as ``accuracy_chosen_on_test``.
    baseline: also trains the paper's classifiers on ``train`` with DP-SGD, and compares.
    inception: path of the Inception network, "download" or "none"; by default it is looked for in
    ``$DPDM_DATA/inception/`` and in the cache. features: other networks to compare by, paths of
    TorchScript files, "cnn", "pixels", or extractors.
    cache: a private folder that keeps classifiers, features and distances, so that a second call
    resumes.

    Raises RequestError where a metric is unknown or lacks what it needs, or where the sets do not
    belong together: image shapes, class names, labels outside the test set's classes.
    """
    asked = check_metrics(metrics)
    protocol = Protocol(classifiers_asked(classifiers), seeds, seed, selection)
    training = None if baseline is None else check_baseline(baseline, train, test, protocol.names)
    images, labels, names = open_synthetic(synthetic)
    check_needs(asked, labels is not None, train, test)
    _check_sets(images.shape[1:], names, train, test)
    if labels is not None and test is not None and test.classes:
        check_labels(labels, len(test.classes))

    result: dict[str, Any] = {"synthetic_images": len(images), "notes": []}
    named = [features] if isinstance(features, str) else features  # not letter by letter
    store = Store(cache)
    if "classifiers" in asked:
        assert labels is not None
        assert test is not None
        result |= measure_classifiers(images, labels, test, protocol, store, progress)
        result["notes"] += classifier_notes(
            labels, test.classes, protocol, result.get("accuracy_chosen_on_test")
        )
    if baseline is not None and training is not None:
        assert test is not None
        found = measure_baseline(baseline, training, test, protocol, progress)
        accuracy = result.get("accuracy", {})
        found["difference"] = {
            name: accuracy[name] - value
            for name, value in found["accuracy"].items()
            if name in accuracy
        }
        result["baseline"] = found
        result["notes"].append(baseline_note(found))
    if set(asked) & set(OF_FEATURES):
        network = find_inception(inception, progress)
        measuring = Measuring(store, progress)
        sets = RealSets(train, test)
        measure_features(result, asked, (images, labels), sets, named, network, measuring)
    result["notes"] = result.pop("notes")  # last, where a person reads the file
    return cast(Evaluation, result)


def added(earlier: Mapping[str, Any], later: Mapping[str, Any]) -> dict[str, Any]:
    """Two evaluations of the same samples as one; where both have an entry, the later one's.

    Entries on classifiers go together: they are of one protocol.
    """
    if "accuracy" in later:
        earlier = without_classification(earlier)
    result = {**earlier, **later}
    for key in ("features", "seconds"):
        if key in earlier and key in later:
            result[key] = {**earlier[key], **later[key]}
    notes = dict.fromkeys([*earlier.get("notes", ()), *later.get("notes", ())])
    if "fid" in result and "kid" in result and "is" in result:
        notes.pop(INCEPTION_ABSENT, None)
    result["notes"] = list(notes)
    return result


def without_pictures(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """An evaluation without the pictures of real images: these are for the private report alone."""
    result = dict(evaluation)
    if "memorisation" in result:
        pairs = [
            {key: value for key, value in pair.items() if not key.startswith("picture")}
            for pair in result["memorisation"]["pairs"]
        ]
        result["memorisation"] = {**result["memorisation"], "pairs": pairs}
    return result


def _check_sets(
    shape: tuple[int, ...],
    names: tuple[str, ...],
    train: DatasetLike | None,
    test: DatasetLike | None,
) -> None:
    if test is not None:
        check_together("synthetic", shape, names, "test", test)
        if train is not None:
            check_together("train", train.shape, train.classes, "test", test)
    elif train is not None:
        check_together("synthetic", shape, names, "train", train)

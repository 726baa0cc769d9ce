"""What a synthetic set is worth: the accuracy, on real test images, of classifiers trained on it.

The protocol of Table 1 of the DPDM paper (arXiv 2210.09929): models are chosen on held-out
synthetic images. The real test set is read once, after the last choice; choosing by it, as much of
the literature does, spends privacy that nobody accounts for and flatters the result (DPImageBench).
"""

import time
from collections.abc import Callable, Iterable
from typing import Any, Protocol, TypedDict

import numpy as np
from numpy.typing import NDArray

from dpdm.errors import RequestError
from dpdm.evaluation.classifiers import (
    CLASSIFIER_NAMES,
    MINIMUM_IMAGES,
    ClassifierName,
    TrainedClassifier,
    train_classifier,
)

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]
ProgressCallback = Callable[[str, int, int], None]
"""Called with (what is being done, units done, units in all)."""

AVAILABLE_METRICS = ("classifiers",)


class DatasetLike(Protocol):
    """What is read of a data set; ``dpdm.data.Dataset`` has it."""

    @property
    def shape(self) -> tuple[int, int, int]: ...
    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def private_images(self) -> Images: ...
    @property
    def private_labels(self) -> Labels | None: ...


class Evaluation(TypedDict, total=False):
    """The object of ``dpdm evaluate --json``; plain JSON types, fractions of 1.

    All of it is measured on real data without noise: it belongs on the private side.
    """

    accuracy: dict[str, float]
    """``lr``, ``mlp``, ``cnn``: share of real test images classified rightly, mean over seeds."""
    accuracy_spread: dict[str, float]
    """Sample standard deviation over seeds of ``mlp`` and ``cnn``; only with two seeds or more."""
    per_class: dict[str, dict[str, float]]
    """For each classifier, the accuracy within each class that occurs in the test set."""
    synthetic_images: int
    test_images: int
    seeds: int
    seconds: dict[str, float]
    """Training time of each classifier, all seeds together."""
    notes: list[str]
    """One line each: what a reader should know before trusting the numbers."""


def evaluate(
    synthetic: tuple[Images, Labels | None] | DatasetLike,
    *,
    train: DatasetLike | None = None,
    test: DatasetLike | None = None,
    metrics: Iterable[str] = AVAILABLE_METRICS,
    seeds: int = 1,
    seed: int = 0,
    progress: ProgressCallback | None = None,
) -> Evaluation:
    """Measure a labelled synthetic set against real data.

    synthetic: (images uint8 (N, H, W, C) or (N, H, W), labels int (N,)), or a data set opened from
    a file of samples. test: the real test set. train: the real training set; its shape and classes
    are checked against the others, and no metric of this version looks at its images.
    seeds: how many times the classifiers with randomness in them are trained; seed: the first.

    Raises RequestError where a metric is unknown or lacks what it needs, or where the sets do not
    belong together: image shapes, class names, labels outside the test set's classes.
    """
    _check_metrics(metrics)
    if seeds < 1:
        raise RequestError(f"seeds is {seeds}; train the classifiers at least once (seeds >= 1)")
    if test is None:
        raise RequestError("metric classifiers needs a real test set: give test=... (--test SPEC)")
    if not test.classes:
        raise RequestError("the test set has no labels; metric classifiers needs a labelled one")
    images, labels, names = _open_synthetic(synthetic)
    _check_together("synthetic", images.shape[1:], names, "test", test)
    if train is not None:
        _check_together("train", train.shape, train.classes, "test", test)
    _check_labels(labels, len(test.classes))

    trained, seconds = _train_all(images, labels, len(test.classes), seeds, seed, progress)

    # From here on every model is chosen; the test set is read for the first time, once.
    test_images, test_labels = test.private_images, test.private_labels
    if test_labels is None:
        raise RequestError("the test set has no labels; metric classifiers needs a labelled one")
    evaluation: Evaluation = {
        "accuracy": {},
        "per_class": {},
        "synthetic_images": len(images),
        "test_images": len(test_images),
        "seeds": seeds,
        "seconds": {name: round(value, 2) for name, value in seconds.items()},
        "notes": _notes(labels, test.classes, seeds),
    }
    spread: dict[str, float] = {}
    for name, models in trained.items():
        hits = np.stack([model.predict(test_images) == test_labels for model in models])
        accuracies = hits.mean(1)
        evaluation["accuracy"][name] = float(accuracies.mean())
        evaluation["per_class"][name] = {
            label: float(hits[:, test_labels == number].mean())
            for number, label in enumerate(test.classes)
            if (test_labels == number).any()
        }
        if len(models) > 1:
            spread[name] = float(accuracies.std(ddof=1))
    if spread:
        evaluation["accuracy_spread"] = spread
    return evaluation


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


def _notes(labels: Labels, classes: tuple[str, ...], seeds: int) -> list[str]:
    notes = [
        "Classifiers were trained and chosen on synthetic images only; "
        "the real test set was read once, by the chosen models."
    ]
    absent = [name for number, name in enumerate(classes) if not (labels == number).any()]
    if absent:
        shown = ", ".join(absent[:5]) + (" and others" if len(absent) > 5 else "")
        notes.append(f"{len(absent)} of {len(classes)} classes have no synthetic image: {shown}.")
    if seeds == 1:
        notes.append("One seed: differences within about one point may be chance.")
    return notes


def _check_metrics(metrics: Iterable[str]) -> None:
    # A bare string would be read letter by letter.
    asked = (metrics,) if isinstance(metrics, str) else tuple(metrics)
    available = ", ".join(AVAILABLE_METRICS)
    if not asked:
        raise RequestError(f"no metric was asked for; available: {available}")
    for metric in asked:
        if metric not in AVAILABLE_METRICS:
            raise RequestError(
                f"metric {metric} is not available in this version; available: {available}"
            )


def _open_synthetic(
    synthetic: tuple[Images, Labels | None] | DatasetLike,
) -> tuple[Images, Labels, tuple[str, ...]]:
    labels: Any
    if isinstance(synthetic, tuple):
        images, labels = synthetic
        names: tuple[str, ...] = ()
    else:
        images, labels = synthetic.private_images, synthetic.private_labels
        names = synthetic.classes
    images = np.asarray(images)
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        raise RequestError(
            f"synthetic images are {images.dtype} {images.shape}; "
            "give uint8 (N, H, W, C) or (N, H, W)"
        )
    if images.ndim == 3:
        images = images[..., None]
    if labels is None:
        raise RequestError(
            "the synthetic set has no labels; metric classifiers needs labelled images"
        )
    labels = np.asarray(labels)
    if not np.issubdtype(labels.dtype, np.integer) or labels.shape != (len(images),):
        raise RequestError(
            f"synthetic labels are {labels.dtype} {labels.shape}; "
            f"give one whole number per image, ({len(images)},)"
        )
    if len(images) < MINIMUM_IMAGES:
        raise RequestError(
            f"the synthetic set has {len(images)} images; "
            f"metric classifiers needs at least {MINIMUM_IMAGES}"
        )
    return images, labels.astype(np.int64), names


def _check_together(
    what: str,
    shape: tuple[int, ...],
    names: tuple[str, ...],
    other_what: str,
    other: DatasetLike,
) -> None:
    if tuple(shape) != tuple(other.shape):
        raise RequestError(
            f"{what} images are {_size(shape)} and {other_what} images {_size(other.shape)} "
            "(height x width x channels); open both with the same image_size and channels"
        )
    if _same_classes(names, other.classes):
        return
    if len(names) != len(other.classes):
        difference = f"{len(names)} and {len(other.classes)} of them"
    else:
        pairs = zip(names, other.classes, strict=True)
        number, (mine, theirs) = next((n, p) for n, p in enumerate(pairs) if p[0] != p[1])
        difference = f"class {number} is {mine!r} and {theirs!r}"
    raise RequestError(
        f"{what} and {other_what} classes differ: {difference}; "
        "give sets with the same class names in the same order"
    )


def _same_classes(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Whether label k means the same in both, as far as the names can tell.

    Files without names number their classes from 0; such numbers agree with any words, and with
    longer numbering, but not with other numbers ("2", "7" are names of their own).
    """
    if not one or not other or one == other:
        return True
    if _counted(one):
        return _counted(other) or not any(name.isdecimal() for name in other)
    return _counted(other) and not any(name.isdecimal() for name in one)


def _counted(names: tuple[str, ...]) -> bool:
    return names == tuple(str(number) for number in range(len(names)))


def _size(shape: tuple[int, ...]) -> str:
    return "x".join(str(side) for side in shape)


def _check_labels(labels: Labels, classes: int) -> None:
    outside = labels[(labels < 0) | (labels >= classes)]
    if len(outside):
        raise RequestError(
            f"{len(outside)} synthetic labels are outside the test set's classes "
            f"0 to {classes - 1} (the first is {outside[0]}); "
            "give samples of the classes that the test set has"
        )

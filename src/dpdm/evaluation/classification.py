"""Metric ``classifiers``: accuracy on real test images of classifiers trained on synthetic ones.

The protocol of Table 1 of the DPDM paper (arXiv 2210.09929): models are chosen on held-out
synthetic images. The real test set is read once, after the last choice; choosing by it, as much of
the literature does, spends privacy that nobody accounts for and flatters the result (DPImageBench).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import numpy as np
from numpy.typing import NDArray

from dpdm.errors import RequestError
from dpdm.evaluation.checks import DatasetLike, Images, Labels
from dpdm.evaluation.classifiers import (
    AVAILABLE_CLASSIFIERS,
    CLASSIFIER_NAMES,
    ClassifierName,
    ClassifierStore,
    Kept,
)
from dpdm.evaluation.progress import ProgressCallback
from dpdm.evaluation.store import Store

Selection = Literal["synthetic", "test"]
"""By which images the epoch of a classifier is chosen: ``test`` adds the literature's figure."""

MOST_CLASSES = 100
"""Of more classes no confusion matrix is given."""

ONE_SEED = "One seed: differences within about one point may be chance."
_CHOSEN_ON_TEST = "selection=test: "


@dataclass(frozen=True)
class Protocol:
    """Which classifiers are trained, how often, from which seed, and chosen by what.

    Raises RequestError where a name is unknown or a number makes no sense.
    """

    names: tuple[ClassifierName, ...] = CLASSIFIER_NAMES
    seeds: int = 1
    seed: int = 0
    selection: Selection = "synthetic"

    def __post_init__(self) -> None:
        unknown = [name for name in self.names if name not in AVAILABLE_CLASSIFIERS]
        if unknown or not self.names:
            what = f"{unknown[0]} is not known" if unknown else "none was asked for"
            known = ", ".join(AVAILABLE_CLASSIFIERS)
            raise RequestError(f"classifiers: {what}; available: {known}")
        if self.seeds < 1:
            raise RequestError(
                f"seeds is {self.seeds}; train the classifiers at least once (seeds >= 1)"
            )
        if self.selection not in get_args(Selection):
            raise RequestError(
                f"selection {self.selection}: use {' or '.join(get_args(Selection))}"
            )

    def repeats(self, name: ClassifierName) -> int:
        """Trainings of a classifier; one of ``lr``, which has no randomness."""
        return 1 if name == "lr" else self.seeds

    def trainings(self) -> list[tuple[ClassifierName, int, str]]:
        """(classifier, number of the training from 0, what it is called) of each training."""
        return [
            (name, repeat, name if count == 1 else f"{name}, seed {repeat + 1} of {count}")
            for name in dict.fromkeys(self.names)
            for count in (self.repeats(name),)
            for repeat in range(count)
        ]

    def child_seed(self, name: ClassifierName, repeat: int) -> int:
        """The seed of one training."""
        entropy = (self.seed, AVAILABLE_CLASSIFIERS.index(name), repeat)
        return int(np.random.SeedSequence(entropy).generate_state(1)[0])


def classifiers_asked(names: str | Sequence[str]) -> tuple[ClassifierName, ...]:
    """Names as they were given; a bare one counts as a list of one."""
    return cast(tuple[ClassifierName, ...], (names,) if isinstance(names, str) else tuple(names))


def measure_classifiers(
    images: Images,
    labels: Labels,
    test: DatasetLike,
    protocol: Protocol,
    store: Store,
    progress: ProgressCallback | None,
) -> dict[str, Any]:
    """The entries of ``Evaluation`` that classifiers give."""
    classes = test.classes
    kept = ClassifierStore(store, images, labels, len(classes))
    # Choosing by the test set needs it now; otherwise it is read when every model is chosen.
    looked_at = labelled(test) if protocol.selection == "test" else None
    trained: dict[ClassifierName, list[Kept]] = {}
    for name, repeat, what in protocol.trainings():
        if progress is not None:
            progress(what, 0, 1)
        on_epoch = None if progress is None else _epoch_progress(progress, what)
        seed = protocol.child_seed(name, repeat)
        trained.setdefault(name, []).append(kept.train(name, seed, on_epoch, looked_at))

    # From here on every model is chosen; the test set is read, unless it was, for the only time.
    test_images, test_labels = looked_at or labelled(test)
    result: dict[str, Any] = {
        "accuracy": {},
        "per_class": {},
        "test_images": len(test_images),
        "seeds": protocol.seeds,
        "selection": protocol.selection,
        "seconds": {
            name: round(sum(model.seconds for model in models), 2)
            for name, models in trained.items()
        },
    }
    spread: dict[str, float] = {}
    predictions: dict[str, NDArray[np.int64]] = {}
    for name, models in trained.items():
        predictions[name] = np.stack([kept.predict(model, test_images) for model in models])
        hits = predictions[name] == test_labels
        result["accuracy"][name], deviation = mean_and_spread(hits.mean(1))
        result["per_class"][name] = {
            label: float(hits[:, test_labels == number].mean())
            for number, label in enumerate(classes)
            if (test_labels == number).any()
        }
        if deviation is not None:
            spread[name] = deviation
    if spread:
        result["accuracy_spread"] = spread
    if looked_at is not None:
        result["accuracy_chosen_on_test"] = {
            name: float(np.mean([max(model.classifier.looked_at) for model in models]))
            for name, models in trained.items()
        }
    if len(classes) <= MOST_CLASSES:
        best = best_classifier(result["accuracy"])
        result["confusion"] = _confusion(best, predictions[best], test_labels, classes)
    return result


def without_classification(evaluation: Mapping[str, Any]) -> dict[str, Any]:
    """An evaluation without what ``measure_classifiers`` found, and without the notes on it."""
    entries = ("accuracy", "accuracy_spread", "accuracy_chosen_on_test", "per_class", "confusion")
    left = {key: value for key, value in evaluation.items() if key not in entries}
    notes = evaluation.get("notes", ())
    about = (ONE_SEED, _CHOSEN_ON_TEST)
    return left | {"notes": [note for note in notes if not note.startswith(about)]}


def mean_and_spread(values: Sequence[float] | NDArray[np.float64]) -> tuple[float, float | None]:
    """Mean, and the sample standard deviation of two values or more."""
    return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None


def labelled(dataset: DatasetLike) -> tuple[Images, Labels]:
    """Images and labels of a real set; RequestError where it has none."""
    images, labels = dataset.private_images, dataset.private_labels
    if labels is None:
        raise RequestError("a real set has no labels; classifiers need labelled ones")
    return images, labels


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


def _epoch_progress(progress: ProgressCallback, what: str) -> Callable[[int, int], None]:
    return lambda done, total: progress(what, done, total)


def classifier_notes(
    labels: Labels,
    classes: tuple[str, ...],
    protocol: Protocol,
    on_test: Mapping[str, float] | None,
) -> list[str]:
    """What a reader should know before trusting the accuracies; ``on_test``: those chosen by it."""
    notes = [
        "Classifiers were trained and chosen on synthetic images only; "
        "the chosen ones read the real test set once."
    ]
    if on_test is not None:
        figures = ", ".join(f"{name} {value:.4f}" for name, value in on_test.items())
        notes.append(
            f"{_CHOSEN_ON_TEST}{figures} where each epoch is chosen by the real test images "
            "themselves. Optimistic: such a choice flatters and spends privacy that nobody "
            "accounts for; it reproduces the literature's figures and is no result of its own."
        )
    absent = [name for number, name in enumerate(classes) if not (labels == number).any()]
    if absent:
        shown = ", ".join(absent[:5]) + (" and others" if len(absent) > 5 else "")
        notes.append(f"{len(absent)} of {len(classes)} classes have no synthetic image: {shown}.")
    if protocol.seeds == 1:
        notes.append(ONE_SEED)
    return notes

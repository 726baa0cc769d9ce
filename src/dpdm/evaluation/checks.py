"""Whether the sets of an evaluation belong together and suffice for what was asked."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from dpdm.errors import RequestError
from dpdm.evaluation.classifiers import MINIMUM_IMAGES

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]

AVAILABLE_METRICS = ("classifiers", "fid", "kid", "prdc", "is", "per-class", "memorisation")
_OF_LABELS = ("classifiers", "per-class")
_OF_TEST = ("classifiers", "per-class", "memorisation")
OF_TRAIN = ("fid", "kid", "prdc", "per-class", "memorisation")


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


def check_metrics(metrics: Iterable[str]) -> tuple[str, ...]:
    """The metrics asked for; raises RequestError where one is unknown, or where there is none."""
    # A bare string would be read letter by letter.
    asked = (metrics,) if isinstance(metrics, str) else tuple(metrics)
    available = ", ".join(AVAILABLE_METRICS)
    if not asked:
        raise RequestError(f"no metric was asked for; available: {available}")
    for metric in asked:
        if metric not in AVAILABLE_METRICS:
            raise RequestError(f"metric {metric} is not known; available: {available}")
    return asked


def check_needs(
    asked: tuple[str, ...], labelled: bool, train: DatasetLike | None, test: DatasetLike | None
) -> None:
    """Raises RequestError where a metric lacks a set or labels."""
    for metric in asked:
        if metric in OF_TRAIN and train is None:
            raise RequestError(
                f"metric {metric} needs the real training set: give train=... (--train SPEC)"
            )
        if metric in _OF_TEST and test is None:
            raise RequestError(
                f"metric {metric} needs a real test set: give test=... (--test SPEC)"
            )
        if metric in _OF_LABELS and test is not None and not test.classes:
            raise RequestError(f"the test set has no labels; metric {metric} needs a labelled one")
        if metric in _OF_LABELS and not labelled:
            raise RequestError(
                f"the synthetic set has no labels; metric {metric} needs labelled images"
            )
    if "per-class" in asked and train is not None and not train.classes:
        raise RequestError("the training set has no labels; metric per-class needs a labelled one")


def open_synthetic(
    synthetic: tuple[Images, Labels | None] | DatasetLike,
) -> tuple[Images, Labels | None, tuple[str, ...]]:
    """Images uint8 (N, H, W, C), labels int64 (N,) or None, and the classes' names where known."""
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
    if labels is not None:
        labels = np.asarray(labels)
        if not np.issubdtype(labels.dtype, np.integer) or labels.shape != (len(images),):
            raise RequestError(
                f"synthetic labels are {labels.dtype} {labels.shape}; "
                f"give one whole number per image, ({len(images)},)"
            )
        labels = labels.astype(np.int64)
    if len(images) < MINIMUM_IMAGES:
        raise RequestError(
            f"the synthetic set has {len(images)} images; "
            f"an evaluation needs at least {MINIMUM_IMAGES}"
        )
    return images, labels, names


def check_together(
    what: str,
    shape: tuple[int, ...],
    names: tuple[str, ...],
    other_what: str,
    other: DatasetLike,
) -> None:
    """Raises RequestError where two sets differ in image shape or in their classes' names."""
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


def check_labels(labels: Labels, classes: int) -> None:
    """Raises RequestError where a synthetic label is none of the test set's classes."""
    outside = labels[(labels < 0) | (labels >= classes)]
    if len(outside):
        raise RequestError(
            f"{len(outside)} synthetic labels are outside the test set's classes "
            f"0 to {classes - 1} (the first is {outside[0]}); "
            "give samples of the classes that the test set has"
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

"""Metric ``memorisation``: how close samples lie to training images, measured by a hold-out.

The hold-out is the real test set. In the features of the CNN, which a half of that set trained, it
is the other half.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dpdm.errors import RequestError
from dpdm.evaluation.checks import DatasetLike, Images, Labels
from dpdm.evaluation.distances import Measuring
from dpdm.evaluation.features import PIXELS, Extractor, FeatureSet, extract
from dpdm.evaluation.figures import png_bytes, sample_grid
from dpdm.evaluation.metrics.memorisation import (
    ALLOWED,
    FEWEST_HELD_OUT,
    MATERIAL_AUC,
    SIGNIFICANT,
    Classes,
    Distances,
    Memorisation,
    memorisation,
)
from dpdm.evaluation.metrics.neighbours import Neighbours
from dpdm.hashing import content_hash

_UNLIKE = (
    " The test set has too few images of some classes to compare near-copies at the samples' own "
    "shares of classes: read their share with this in mind."
)

PAIRS = 8
"""Samples shown beside their nearest real images."""

_MOST_REPEATED = 0.5
"""Of a hold-out; data sets repeat some of their images, and these are in its thresholds too."""


@dataclass(frozen=True)
class Space:
    """Features to be compared in, and the test images that serve as the hold-out there."""

    extractor: Extractor
    held_out: NDArray[np.intp]


def unfit_hold_out(train: DatasetLike, test: DatasetLike) -> str | None:
    """Why memorisation cannot be measured with this test set, in pixels, or None."""
    return _unfit(train.private_images, test.private_images)


def _unfit(train: Images, test: Images) -> str | None:
    if len(test) < FEWEST_HELD_OUT:
        return (
            f"it needs at least {FEWEST_HELD_OUT} real test images as a hold-out; "
            f"there are {len(test)}"
        )
    known = {hash(image.tobytes()) for image in train}
    repeated = sum(hash(image.tobytes()) in known for image in test)
    if repeated > _MOST_REPEATED * len(test):
        return (
            f"{repeated} of the {len(test)} test images are training images, byte for byte; it "
            "needs a hold-out that training never saw"
        )
    return None


@dataclass(frozen=True)
class LabelsOf:
    """Labels of the training, the test and the synthetic images; None where these have none."""

    train: Labels
    test: Labels
    samples: Labels | None


def measure_memorisation(
    images: Images,
    train: Images,
    test: Images,
    spaces: Sequence[Space],
    measuring: Measuring,
    labels: LabelsOf | None = None,
) -> dict[str, Any]:
    """The entry ``memorisation`` of ``Evaluation``; spaces begin with the pixels.

    With ``labels``, images are compared with those of their class (``metrics/memorisation.py``).
    Pairs are the samples with the smallest ratio of distances, in pixels; their pictures, base64 of
    a PNG, show the sample, the nearest training image and the nearest held-out image.

    Raises:
        RequestError: a hold-out of fewer than 50 images, or one that is mostly training images.
    """
    if reason := _unfit(train, test):
        raise RequestError(f"metric memorisation: {reason}")
    result: dict[str, Any] = {"flagged": False, "verdict": "", "spaces": {}, "pairs": []}
    for space in spaces:
        if len(space.held_out) < FEWEST_HELD_OUT:
            raise RequestError(
                f"metric memorisation needs at least {FEWEST_HELD_OUT} real test images in "
                f"{space.extractor.name} as a hold-out; there are {len(space.held_out)}"
            )
        found, to_train, to_held_out = _in_space(images, train, test, space, measuring, labels)
        result["spaces"][space.extractor.name] = _entry(found, len(space.held_out))
        result["flagged"] |= found.flagged
        if space.extractor is PIXELS:
            rest = test[space.held_out]
            result["pairs"] = [
                _pair(int(index), found, (images, train, rest), to_train, to_held_out)
                for index in np.argsort(found.ratios, kind="stable")[:PAIRS]
            ]
    result["verdict"] = _verdict(result)
    return result


def _in_space(
    images: Images,
    train: Images,
    test: Images,
    space: Space,
    measuring: Measuring,
    labels: LabelsOf | None,
) -> tuple[Memorisation, Neighbours, Neighbours]:
    name = space.extractor.name
    samples = _features(space.extractor, images, "synthetic", measuring)
    real = _features(space.extractor, train, "real", measuring)
    held_out = _features(space.extractor, test[space.held_out], "hold-out", measuring)
    scale = 255 * np.sqrt(real.values.shape[1]) if space.extractor is PIXELS else 1.0

    def near(queries: FeatureSet, references: FeatureSet, what: str) -> Neighbours:
        same = queries is references
        return measuring.nearest(queries, references, 1, f"{what}, {name}", same=same)

    def distance(found: Neighbours) -> NDArray[np.float64]:
        scaled: NDArray[np.float64] = np.sqrt(found.squared[:, 0]) / scale
        return scaled

    to_train = near(samples, real, "nearest training images")
    to_held_out = near(samples, held_out, "nearest held-out images")
    sample_to_train, sample_to_held_out = distance(to_train), distance(to_held_out)
    classes = None
    if labels is not None:
        rest = labels.test[space.held_out]
        closer = sample_to_train <= sample_to_held_out
        nearest = labels.train[to_train.indices[:, 0]], rest[to_held_out.indices[:, 0]]
        classes = Classes(labels.train, rest, np.where(closer, *nearest), labels.samples)
    found = memorisation(
        Distances(
            sample_to_train=sample_to_train,
            sample_to_held_out=sample_to_held_out,
            held_out_to_train=distance(near(held_out, real, "hold-out to training images")),
            held_out_to_rest=distance(near(held_out, held_out, "hold-out to its rest")),
            train_to_sample=distance(near(real, samples, "training images to samples")),
            held_out_to_sample=distance(near(held_out, samples, "hold-out to samples")),
        ),
        classes,
    )
    return found, to_train, to_held_out


def _features(extractor: Extractor, images: Images, what: str, measuring: Measuring) -> FeatureSet:
    if extractor is PIXELS:  # as bytes: the floats would take four times the memory
        flat = images.reshape(len(images), -1)
        return FeatureSet(flat, content_hash(flat))
    return extract(extractor, images, what, store=measuring.store, progress=measuring.progress)


def _entry(found: Memorisation, held_out: int) -> dict[str, Any]:
    entry = {
        "flagged": found.flagged,
        "held_out_images": held_out,
        "thresholds_from": found.thresholds_from,
        "classes_matched": found.classes_matched,
        "near_copies": found.near_copies,
        "near_copies_p": found.near_copies_p,
        "nearer_than_any_held_out": found.nearer_than_any_held_out,
        "distance_threshold": found.distance_threshold,
        "ratio_threshold": found.ratio_threshold,
        "threshold_origin": (
            f"the {ALLOWED:.0%} quantile of the hold-out's own distances to the training set, and "
            "of its own ratios of distances; where classes are known, of as many images of each as "
            "its share of the samples"
        ),
        "distance_median": found.sample_distance,
        "distance_median_held_out": found.held_out_distance,
        "ratio_median": found.sample_ratio,
        "ratio_median_held_out": found.held_out_ratio,
        "closer_to_train": found.closer_to_train,
        "closer_to_train_expected": found.closer_to_train_expected,
        "membership_auc": found.membership_auc,
        "membership_p": found.membership_p,
    }
    # A ratio is infinite where held-out images repeat; JSON has no such number.
    return {key: None if value == np.inf else value for key, value in entry.items()}


def _pair(
    index: int,
    found: Memorisation,
    sets: tuple[Images, Images, Images],
    to_train: Neighbours,
    to_held_out: Neighbours,
) -> dict[str, Any]:
    images, train, rest = sets
    scale = 255 * np.sqrt(images[0].size)
    near, other = int(to_train.indices[index, 0]), int(to_held_out.indices[index, 0])
    strip = sample_grid(
        np.stack([images[index], train[near], rest[other]]), columns=3, background=None
    )
    ratio = float(found.ratios[index])
    return {
        "synthetic": index,
        "train": near,
        "distance": float(np.sqrt(to_train.squared[index, 0]) / scale),
        "held_out_distance": float(np.sqrt(to_held_out.squared[index, 0]) / scale),
        "ratio": ratio if np.isfinite(ratio) else None,
        "near_copy": bool(found.is_near_copy[index]),
        "picture": base64.b64encode(png_bytes(strip)).decode("ascii"),
        "picture_size": [int(strip.shape[1]), int(strip.shape[0])],
    }


def _verdict(result: dict[str, Any]) -> str:
    unlike = not all(entry["classes_matched"] for entry in result["spaces"].values())
    return _signs(result) + (_UNLIKE if unlike else "")


def _signs(result: dict[str, Any]) -> str:
    spaces = result["spaces"]
    flagged = [name for name, entry in spaces.items() if entry["flagged"]]
    if not flagged:
        return (
            "No sign of memorisation: samples are no nearer to the training images than fresh "
            "real images would be. This does not prove that there is none."
        )
    signs = []
    for name in flagged:
        entry = spaces[name]
        if entry["near_copies_p"] < SIGNIFICANT:
            share = max(entry["near_copies"], entry["nearer_than_any_held_out"])
            signs.append(
                f"in {name} {share:.1%} of the samples are near-copies of training images, beyond "
                "the chance of fresh real images"
            )
        if entry["membership_p"] < SIGNIFICANT and entry["membership_auc"] >= MATERIAL_AUC:
            signs.append(
                f"in {name} the distance to the nearest sample tells training images from others "
                f"with an AUC of {entry['membership_auc']:.3f}, where a guess has 0.5"
            )
    return f"Signs of memorisation: {'; '.join(signs)}."

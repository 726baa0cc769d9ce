"""Canaries: made-up units, each in the data or not by the toss of a coin, for attacks to look for.

A white-box canary needs no image. In a statistic its vector is a public random direction, in a
DP-SGD step its gradient lies on a coordinate of its own, both far longer than the clip norm. So it
is the worst unit the promise speaks of: all it may contribute, where nobody else does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from dpdm.data import Dataset
from dpdm.privacy import OuterProducts, PrivateUnits
from dpdm.privacy.gradients import Elsewhere, PerUnit

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Chosen = npt.NDArray[np.bool_]

ENTRY = "audit_canaries"
"""Name of the gradient entry where each canary, and each blank, has a coordinate of its own."""

_LOUD = 1e6
"""Norm of what a canary contributes before clipping."""


@dataclass(frozen=True)
class Contributions:
    """What went into one statistic.

    Attributes:
        directions: (m, d) unit vectors, one for each canary, in the data or not; public.
        segments: (m,) the segment of each.
        real: the vectors of the real images, with segments and weights, before clipping.
    """

    directions: Array
    segments: Integers
    real: tuple[Array, Integers | None, Array | None]


class Canaries:
    """``count`` canaries and ``blanks`` coordinates of a gradient that belong to nobody.

    Attributes:
        included: (count,) whether each is in the data: the secret that the attack guesses.
        sent: what went into the statistic that is being released; holds real images' vectors.
    """

    def __init__(self, count: int, blanks: int, generator: np.random.Generator) -> None:
        self.count, self.blanks = count, blanks
        self.included: Chosen = generator.random(count) < 0.5
        self.sent: Contributions | None = None
        self._generator = generator

    @property
    def width(self) -> int:
        """Coordinates of their part of a gradient."""
        return self.count + self.blanks

    def take_sent(self) -> Contributions:
        """What went into the statistic that is being released, once."""
        sent, self.sent = self.sent, None
        assert sent is not None
        return sent

    def directions(self, dimension: int) -> Array:
        """(count, dimension) random unit vectors."""
        vectors = self._generator.standard_normal((self.count, dimension))
        normed: Array = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return normed

    def segments(self, number: int) -> Integers:
        """(count,) random segments below ``number``."""
        return self._generator.integers(0, number, self.count)


class CanaryUnits(PrivateUnits):
    """The units of ``real`` and after them the included canaries; mechanisms see no difference."""

    __slots__ = ("_canaries", "_members", "_real")

    elsewhere = False  # a canary's gradient is put beside them

    def __init__(self, real: PrivateUnits, canaries: Canaries) -> None:
        super().__init__(())
        self._real, self._canaries = real, canaries
        self._members = np.flatnonzero(canaries.included)

    def transform(self, function: Callable[[Any], Any], labels: Any = None) -> CanaryUnits:
        return CanaryUnits(self._real.transform(function, labels), self._canaries)

    def prepare(self, function: Any) -> CanaryUnits:
        return CanaryUnits(self._real.prepare(function), self._canaries)

    def _count(self, door: object) -> int:
        return self._real._count(door) + len(self._members)

    def _vectors(self, door: object, contribution: Any) -> Any:
        blocks = self._real._vectors(door, contribution)
        every, parts, shares = map(list, zip(*blocks, strict=True))
        vectors = np.concatenate(every)
        segments = None if parts[0] is None else np.concatenate(parts)
        weights = None if shares[0] is None else np.concatenate(shares)
        real = vectors, segments, weights
        number = 1 if segments is None else int(segments.max()) + 1
        sent = Contributions(
            self._canaries.directions(vectors.shape[1]), self._canaries.segments(number), real
        )
        self._canaries.sent = sent
        both = np.concatenate([vectors, _LOUD * sent.directions[self._members]])
        if segments is not None:
            segments = np.concatenate([segments, sent.segments[self._members]])
        if weights is not None:
            weights = np.concatenate([weights, np.ones(len(self._members))])
        return [(both, segments, weights)]

    def _gradients(
        self, door: object, units: Integers, images: int, random: Any, function: Any
    ) -> tuple[torch.Tensor, Mapping[str, PerUnit]]:
        stand_in = self._stand_in(door, units)
        losses, gradients = self._real._gradients(door, stand_in, images, random, function)
        assert not isinstance(gradients, Elsewhere)
        rows = np.flatnonzero(units != stand_in)
        who = self._members[units[rows] - self._real._count(door)]
        for gradient in gradients.values():
            whole = gradient.left if isinstance(gradient, OuterProducts) else gradient
            whole[torch.from_numpy(rows)] = 0.0
        own = torch.zeros(len(units), self._canaries.width, device=losses.device)
        own[torch.from_numpy(rows), torch.from_numpy(who)] = _LOUD
        return losses, {**gradients, ENTRY: own}

    def _stand_in(self, door: object, units: Integers) -> Integers:
        """Unit 0 where a canary was drawn: batches keep their size, its gradient is thrown away."""
        return np.where(units < self._real._count(door), units, 0)


@dataclass(frozen=True)
class ImageCanaries:
    """Canaries that are images like any other, ``kind`` by ``kind``.

    Attributes:
        kind: ``random``, ``blank`` or ``mislabelled``.
        images: uint8 (m, H, W, C).
        labels: int64 (m,), or None.
        included: (m,) whether each is in the data.
    """

    kind: str
    images: npt.NDArray[np.uint8]
    labels: Integers | None
    included: Chosen


def image_canaries(
    dataset: Dataset, count: int, generator: np.random.Generator
) -> list[ImageCanaries]:
    """``count`` of each kind: random pixels; one random grey; an image of the data, wrong label."""
    if count == 0:
        return []
    classes, shape = len(dataset.classes), dataset.shape
    random = generator.integers(0, 256, (count, *shape), dtype=np.uint8)
    blank = np.broadcast_to(
        generator.integers(0, 256, (count, 1, 1, 1), dtype=np.uint8), (count, *shape)
    )
    labels = generator.integers(0, classes, count) if classes else None
    made = [("random", random, labels), ("blank", np.ascontiguousarray(blank), labels)]
    if dataset.private_labels is not None and classes > 1:
        of = generator.integers(0, dataset.private_count, count)
        wrong = (dataset.private_labels[of] + generator.integers(1, classes, count)) % classes
        made.append(("mislabelled", dataset.private_images[of], wrong))
    return [ImageCanaries(*parts, generator.random(count) < 0.5) for parts in made]


def with_images(dataset: Dataset, families: list[ImageCanaries]) -> Dataset:
    """The data and the included images of all families, each a unit of its own."""
    images = [dataset.private_images, *(f.images[f.included] for f in families)]
    changed: dict[str, Any] = {"private_images": np.concatenate(images)}
    if dataset.private_labels is not None:
        labels = [f.labels[f.included] for f in families if f.labels is not None]
        changed["private_labels"] = np.concatenate([dataset.private_labels, *labels])
    if dataset.private_groups is not None:
        more = sum(int(f.included.sum()) for f in families)
        last = int(dataset.private_groups.max())
        new = np.arange(last + 1, last + 1 + more)
        changed["private_groups"] = np.concatenate([dataset.private_groups, new])
    return replace(dataset, **changed)

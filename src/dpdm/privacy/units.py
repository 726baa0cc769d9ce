"""Private data, sealed: the mechanisms are the only code that opens it.

A unit is one image or, with groups, all images of one group (one person). A sealed object has no
attribute, index, length, iteration, conversion, copy or text that shows its content, and opens only
to the holder of ``DOOR``, which ``mechanisms.py`` alone imports (a test reads every module).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, NoReturn
from weakref import WeakKeyDictionary

import numpy as np
import numpy.typing as npt
import torch

from dpdm.errors import DpdmError
from dpdm.privacy.gradients import Elsewhere, PerUnit

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]
Gradients = dict[str, torch.Tensor]
Vectors = tuple[Array, Integers | None, Array | None]
Random = Callable[[int], Array]

_BLOCK = 2**16
"""Images whose contributions to a statistic are in memory together."""

DOOR = object()  # the key of the seal

Contribution = Callable[[Any, Any], Array | tuple[Array, Integers]]
"""(rows (N, ...), labels (N,) or None) -> vectors (N, d), or these and the segment of each (N,).
Each image's vector must follow from that image, its label and public values alone."""

UnitGradients = Callable[[Any, Any], tuple[torch.Tensor, Mapping[str, PerUnit] | Elsewhere]]
"""(rows (U * M, ...), labels (U * M,) or None) -> losses (U,), per-unit gradients (U, *shape).
The M images of a unit are adjacent; no unit may influence another's gradient."""


class SealedError(DpdmError):
    """Private data was about to be read outside a mechanism."""


@dataclass(frozen=True)
class _Contents:
    rows: Any
    labels: Any
    order: Integers | None  # images sorted by group; None where an image is a unit
    starts: Integers
    sizes: Integers


_CONTENTS: WeakKeyDictionary[PrivateUnits, _Contents] = WeakKeyDictionary()


class PrivateUnits:
    """Units of private data that only mechanisms can read.

    Args:
        private_rows: (N, ...) array or tensor, one row for each image.
        private_labels: (N,) integers of the same kind, or None.
        private_groups: (N,) int64 group of each image, 0 to G-1, or None: each image is a unit.
    """

    __slots__ = ("__weakref__",)

    elsewhere: ClassVar[bool] = True
    """Whether another process may hold the gradients that ``_gradients`` asks for."""

    def __init__(
        self, private_rows: Any, private_labels: Any = None, private_groups: Integers | None = None
    ) -> None:
        order, sizes = None, np.ones(len(private_rows), np.int64)
        if private_groups is not None:
            order, sizes = np.argsort(private_groups, kind="stable"), np.bincount(private_groups)
        starts = np.cumsum(sizes) - sizes
        _CONTENTS[self] = _Contents(private_rows, private_labels, order, starts, sizes)

    def transform(self, function: Callable[[Any], Any], labels: Any = None) -> PrivateUnits:
        """The same units with ``function(rows)`` for rows, row by row, and ``labels(labels)``."""
        kept, sealed = _CONTENTS[self], PrivateUnits(())
        moved = kept.labels if labels is None or kept.labels is None else labels(kept.labels)
        _CONTENTS[sealed] = replace(kept, rows=function(kept.rows), labels=moved)
        return sealed

    def prepare(self, function: Callable[[Any, Any], Any]) -> PrivateUnits:
        """The same units with ``function(rows, labels)`` for rows; it must treat each image alone.

        Tried on made-up images first, as a contribution is.
        """
        kept, sealed = _CONTENTS[self], PrivateUnits(())
        _refuse_mixing(function, kept)
        _CONTENTS[sealed] = replace(kept, rows=function(kept.rows, kept.labels))
        return sealed

    def _count(self, door: object) -> int:
        """The number of units."""
        return len(self._opened(door).sizes)

    def _vectors(self, door: object, contribution: Contribution) -> Iterable[Vectors]:
        """Every image's vector (n, d), its segment (n,) or None, its weight (n,) or None for 1.

        In blocks of images, which bound the memory. The images of a group have weight 1 / (their
        number): a group's vectors, clipped to C each, add up to a vector of norm at most C.
        """
        contents = self._opened(door)
        _refuse_mixing(contribution, contents)
        weights = None
        if contents.order is not None:
            weights = np.empty(len(contents.rows))
            weights[contents.order] = np.repeat(1.0 / contents.sizes, contents.sizes)

        def block(part: slice) -> Vectors:
            rows = contents.rows[part]
            labels = None if contents.labels is None else contents.labels[part]
            vectors, segments = _pair(contribution(rows, labels))
            if len(vectors) != len(rows):
                raise ValueError(f"{len(vectors)} vectors for {len(rows)} images")
            return vectors, segments, None if weights is None else weights[part]

        starts = range(0, max(len(contents.rows), 1), _BLOCK)
        return (block(slice(start, start + _BLOCK)) for start in starts)

    def _gradients(
        self, door: object, units: Integers, images: int, random: Random, function: UnitGradients
    ) -> tuple[torch.Tensor, Mapping[str, PerUnit] | Elsewhere]:
        """Losses and gradients of some units, from ``images`` images of each.

        Which of a group's images take part is decided by random numbers, one for each image of the
        units, whatever the other groups are.
        """
        contents, chosen = self._opened(door), units
        if contents.order is not None:
            sizes = contents.sizes[units]
            places = _draw(contents.starts[units], sizes, images, random(int(sizes.sum())))
            chosen = contents.order[places]
        index = torch.from_numpy(chosen) if torch.is_tensor(contents.rows) else chosen
        labels = None if contents.labels is None else contents.labels[index]
        return function(contents.rows[index], labels)

    def _opened(self, door: object) -> _Contents:
        return _CONTENTS[self] if door is DOOR else self._refuse()

    def _refuse(self, *_: object) -> NoReturn:
        raise SealedError(
            "private data is sealed: only a mechanism reads it; what may leave is what it releases"
        )

    __len__ = __iter__ = __getitem__ = __array__ = __reduce_ex__ = __copy__ = __deepcopy__ = _refuse

    def __repr__(self) -> str:
        return "PrivateUnits(sealed)"


def _pair(result: Array | tuple[Array, Integers]) -> tuple[Array, Integers | None]:
    return result if isinstance(result, tuple) else (result, None)


def _refuse_mixing(contribution: Callable[[Any, Any], Any], contents: _Contents) -> None:
    """Refuses a contribution in which an image's vector depends on others; tried on random rows."""
    shape = (3, *contents.rows.shape[1:])
    made: Any = np.random.default_rng(0).uniform(0, 255, shape)
    tensor = torch.is_tensor(contents.rows)
    made = torch.from_numpy(made).to(contents.rows) if tensor else made.astype(contents.rows.dtype)
    labels = None if contents.labels is None else np.zeros(3, np.int64)
    together, _ = _pair(contribution(made, labels))
    alone, _ = _pair(contribution(made[:1], None if labels is None else labels[:1]))
    if not np.allclose(together[:1], alone, rtol=1e-6, atol=0):
        raise ValueError("the vector of an image depends on other images: sensitivity is unbounded")


def _draw(starts: Integers, sizes: Integers, images: int, keys: Array) -> Integers:
    """Positions (U * images,): ``images`` of each unit at random, none twice before all once."""
    ends = np.cumsum(sizes)
    owners = np.repeat(np.arange(len(sizes)), sizes)
    positions = np.arange(len(owners)) - np.repeat(ends - sizes, sizes) + starts[owners]
    shuffled = positions[np.lexsort((keys, owners))]
    slots = (ends - sizes)[:, None] + np.arange(images) % sizes[:, None]
    drawn: Integers = shuffled[slots].ravel()
    return drawn

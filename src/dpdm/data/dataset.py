"""A private image collection as the rest of the product sees it: read-only arrays, public facts.

DESIGN.md, "The privacy boundary": fields whose name starts with ``private_`` are derived from
private images without noise and may leave only through a mechanism; everything else is public by
declaration.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from dpdm.errors import RequestError
from dpdm.hashing import content_hash

Images = NDArray[np.uint8]
Integers = NDArray[np.int64]


@dataclass(frozen=True)
class Problem:
    """One image that cannot be used: the file as a person finds it, and the reason."""

    file: str
    reason: str

    def __str__(self) -> str:
        return f"{self.file} ({self.reason})"


@dataclass(frozen=True)
class PublicFacts:
    """What is public about a data set: all that most of the program ever sees of it.

    Attributes:
        name: as given by the operator.
        shape: (H, W, C).
        classes: names in label order, () when unlabelled.
        public_size: the number of units that fixes sample rates and batch constants.
        public_size_declared: False where the exact count is treated as public.
    """

    name: str
    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    public_size: int
    public_size_declared: bool

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W), the shape of an image in model space."""
        height, width, channels = self.shape
        return channels, height, width


@dataclass(frozen=True, eq=False)
class Dataset:
    """Images with optional labels and groups, validated, in memory.

    Public: ``name``; ``shape`` (H, W, C); ``classes`` (names in label order, ``()`` when
    unlabelled); ``public_size``, the number of images, or as declared that of groups where these
    are the unit, which fixes sample rates and batch constants, and ``public_size_declared``, True
    where a person declared it and False where the exact count is treated as public.

    Private: ``private_images`` uint8 (N, H, W, C); ``private_labels`` int64 (N,) or None;
    ``private_groups`` int64 (N,) with ids 0..G-1 or None; ``private_problems``, the images that
    were left out; ``private_sizes_seen``, how many images had which (height, width) before
    resizing.

    The arrays are read-only views: index them to get a writable copy. Raises RequestError where the
    parts contradict each other.
    """

    name: str
    shape: tuple[int, int, int]
    classes: tuple[str, ...]
    public_size: int
    public_size_declared: bool
    private_images: Images = field(repr=False)
    private_labels: Integers | None = field(default=None, repr=False)
    private_groups: Integers | None = field(default=None, repr=False)
    private_problems: tuple[Problem, ...] = field(default=(), repr=False)
    private_sizes_seen: Mapping[tuple[int, int], int] = field(default_factory=dict, repr=False)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W), the shape of an image in model space."""
        return self.facts("image").image_shape

    def facts(self, unit: str) -> PublicFacts:
        """What is public where the unit is an ``image`` or a ``group``.

        Raises:
            RequestError: unit ``group`` without a group for each image.
        """
        size = self.public_size
        if unit == "group":
            if self.private_groups is None:
                raise RequestError(
                    f"privacy.unit=group: {self.name} does not say whose each image is; give a "
                    "group column (metadata.csv, parquet) or a groups array (npz)"
                )
            if not self.public_size_declared:
                size = self.private_units(unit)
        return PublicFacts(self.name, self.shape, self.classes, size, self.public_size_declared)

    def private_units(self, unit: str) -> int:
        """How many units there are: groups where these are the unit and are known, else images."""
        if unit == "group" and self.private_groups is not None:
            return int(self.private_groups.max()) + 1
        return self.private_count

    def public_images(self) -> Images:
        """The images (N, H, W, C) of a data set that its owner calls public, to pretrain on."""
        return self.private_images

    def without_labels(self) -> Dataset:
        """The same images as an unlabelled set."""
        return replace(self, classes=(), private_labels=None)

    def __post_init__(self) -> None:
        _check_images(self.name, self.private_images, self.shape)
        check_class_names(self.name, self.classes)
        count = len(self.private_images)
        _check_labels(self.name, self.private_labels, self.classes, count)
        _check_groups(self.name, self.private_groups, count)
        if isinstance(self.public_size, bool) or self.public_size < 1:
            raise RequestError(
                f"{self.name}: data.public_size is {self.public_size}, it must be at least 1"
            )
        for name in ("private_images", "private_labels", "private_groups"):
            array = getattr(self, name)
            if array is not None:
                view = array.view()
                view.setflags(write=False)
                object.__setattr__(self, name, view)

    @property
    def private_count(self) -> int:
        """The exact number of images, N."""
        return len(self.private_images)

    @property
    def private_hash(self) -> str:
        """SHA-256 of images, labels and groups, to know the same data again."""
        parts = (self.private_images, self.private_labels, self.private_groups)
        return content_hash(*(part for part in parts if part is not None))

    @property
    def private_class_counts(self) -> tuple[int, ...]:
        """Exact images per class, in label order; ``()`` when unlabelled."""
        if self.private_labels is None:
            return ()
        counts = np.bincount(self.private_labels, minlength=len(self.classes))
        return tuple(int(n) for n in counts)


def check_class_names(where: str, classes: tuple[str, ...]) -> None:
    """Refuse blank, repeated or unprintable class names; ``where`` opens the error."""
    for index, name in enumerate(classes):
        if not name.strip():
            raise RequestError(f"{where}: class {index} has no name; give every class a name")
        if not name.isprintable():
            raise RequestError(
                f"{where}: the name of class {index}, {name!r}, has control characters; rename it"
            )
    repeated = [name for name, times in Counter(classes).items() if times > 1]
    if repeated:
        raise RequestError(f"{where}: class name {repeated[0]!r} is used twice; rename one")


def _check_images(where: str, images: Images, shape: tuple[int, int, int]) -> None:
    if images.dtype != np.uint8 or images.ndim != 4:
        raise RequestError(
            f"{where}: images are {images.dtype} with shape {images.shape}; "
            "they must be uint8 (N, H, W, C)"
        )
    if len(images) == 0:
        raise RequestError(f"{where}: no images; give a data set with at least one")
    if images.shape[1:] != tuple(shape):
        raise RequestError(f"{where}: shape says {shape}, the images are {images.shape[1:]}")
    height, width, channels = images.shape[1:]
    if height < 1 or width < 1 or not 1 <= channels <= 4:
        raise RequestError(
            f"{where}: images are {height}x{width} with {channels} channels; "
            "at least one pixel and 1 to 4 channels are needed"
        )


def _check_labels(
    where: str, labels: Integers | None, classes: tuple[str, ...], count: int
) -> None:
    if labels is None:
        if classes:
            raise RequestError(
                f"{where}: {len(classes)} classes but no labels; give labels or drop the classes"
            )
        return
    if labels.dtype != np.int64 or labels.shape != (count,):
        raise RequestError(
            f"{where}: labels are {labels.dtype} with shape {labels.shape}; "
            f"they must be int64 ({count},), one for each image"
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0:
        raise RequestError(f"{where}: label {low} is negative; labels count from 0")
    if high >= len(classes):
        raise RequestError(
            f"{where}: label {high} has no class name, {len(classes)} names are given; "
            "name every class"
        )


def _check_groups(where: str, groups: Integers | None, count: int) -> None:
    if groups is None:
        return
    if groups.dtype != np.int64 or groups.shape != (count,):
        raise RequestError(
            f"{where}: groups are {groups.dtype} with shape {groups.shape}; "
            f"they must be int64 ({count},), one for each image"
        )
    if not np.array_equal(np.unique(groups), np.arange(int(groups.max()) + 1)):
        raise RequestError(f"{where}: group ids must be 0 to G-1, each used at least once")

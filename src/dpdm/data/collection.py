"""What a format found before preprocessing, and the step from there to arrays of one shape.

Whether an image is usable is decided for each image alone, so that leaving a bad one out keeps
neighbouring data sets neighbours (issue 3, **Data**).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Literal

import numpy as np

from dpdm.data.dataset import Dataset, Images, Integers, Problem
from dpdm.data.decode import BadImage, Preprocessing, quiet_pillow
from dpdm.errors import RequestError, first_few
from dpdm.processors import cores

OnError = Literal["fail", "skip"]
Progress = Callable[[int, int], None]

_CHUNK = 4096  # images in flight
_TASK = 64  # images a thread takes at a time: one alone costs less than handing it over
_THREADS = min(8, cores())


@dataclass(frozen=True)
class Encoded:
    """One image still in its file: the name that a problem is reported under, and its bytes."""

    file: str
    read: Callable[[], bytes] = field(repr=False)


@dataclass(frozen=True, eq=False)
class Collection:
    """Images in a fixed order: encoded one by one, or one uint8 (N, H, W, C) array.

    ``labels`` (N,) indexes ``classes``; ``groups`` are any N hashable values of one type;
    ``problems`` were found while listing; ``crop`` is a centre crop in pixels that belongs to the
    data set; ``default_size`` is its image size where nobody asks for another.
    """

    name: str
    images: Sequence[Encoded] | Images
    labels: Integers | None = None
    classes: tuple[str, ...] = ()
    groups: Sequence[str] | Integers | None = None
    problems: tuple[Problem, ...] = ()
    crop: int | None = None
    default_size: int | None = None


@dataclass(frozen=True, eq=False)
class Prepared:
    """A collection after decoding and preprocessing; everything in it is private.

    ``images`` is None where the images do not share one shape. ``kept`` (N,) are the positions in
    the collection of the images that could be used. ``sizes`` counts (height, width) before
    resizing, ``shapes`` counts (H, W, C) after it.
    """

    collection: Collection
    images: Images | None
    kept: Integers
    problems: tuple[Problem, ...]
    sizes: Counter[tuple[int, int]]
    shapes: Counter[tuple[int, int, int]]

    @cached_property
    def groups(self) -> Integers | None:
        """Group ids 0..G-1 of the kept images."""
        if self.collection.groups is None:
            return None
        values = np.asarray(self.collection.groups)[self.kept]
        return np.unique(values, return_inverse=True)[1].reshape(-1).astype(np.int64)

    @property
    def labels(self) -> Integers | None:
        labels = self.collection.labels
        return None if labels is None else labels[self.kept]

    def refusal(self, on_error: OnError) -> RequestError | None:
        """Why this is no data set, or None."""
        name = self.collection.name
        if self.problems and on_error == "fail":
            return RequestError(f"{name}: {_first_problems(self.problems, self._total)}")
        if not self.shapes:
            if self.problems:
                first = self.problems[0]
                return RequestError(
                    f"{name}: none of its {len(self.problems)} images can be used; "
                    f"the first is {first}"
                )
            return RequestError(f"{name}: no images; give a data set with at least one")
        return self._difference()

    def _difference(self) -> RequestError | None:
        """In what the images differ that they must have in common, and what makes them alike."""
        seen, remedies, channels = list[str](), list[str](), Counter[int]()
        for (_, _, count), times in self.shapes.items():
            channels[count] += times
        if len(channels) > 1:
            counted = " and ".join(
                f"{times} with {count} channel{'s' * (count > 1)}"
                for count, times in sorted(channels.items())
            )
            seen.append(f"in channels, {counted}")
            remedies.append("data.channels=1 (grey) or data.channels=3 (RGB)")
        if len({(height, width) for height, width, _ in self.shapes}) > 1:
            seen.append(f"in size (height x width), {_sizes_seen(self.sizes)}")
            remedies.append(
                f"data.image_size, for example data.image_size={_suggestion(self.sizes)}"
            )
        if not seen:
            return None
        return RequestError(
            f"{self.collection.name}: images differ {', and '.join(seen)}; "
            f"set {', and '.join(remedies)}"
        )

    def dataset(self, on_error: OnError, public_size: int | None) -> Dataset:
        """The validated data set; raises RequestError where there is none."""
        refusal = self.refusal(on_error)
        if refusal is not None:
            raise refusal
        assert self.images is not None  # one shape, so they were stored
        height, width, channels = self.images.shape[1:]
        return Dataset(
            name=self.collection.name,
            shape=(int(height), int(width), int(channels)),
            classes=self.collection.classes,
            public_size=len(self.images) if public_size is None else public_size,
            public_size_declared=public_size is not None,
            private_images=self.images,
            private_labels=self.labels,
            private_groups=self.groups,
            private_problems=self.problems,
            private_sizes_seen=dict(sorted(self.sizes.items())),
        )

    @property
    def _total(self) -> int:
        return len(self.kept) + len(self.problems)


def prepare(
    collection: Collection, preprocessing: Preprocessing, progress: Progress | None = None
) -> Prepared:
    """Decode and preprocess every image; ``progress(done, total)`` is called as it goes."""
    if isinstance(collection.images, np.ndarray):
        return _prepare_array(collection, collection.images, preprocessing)
    images, kept = _Stack(len(collection.images)), list[int]()
    problems, sizes = list(collection.problems), Counter[tuple[int, int]]()
    for index, result in enumerate(_decoded(collection.images, preprocessing, progress)):
        if isinstance(result, Problem):
            problems.append(result)
            continue
        pixels, size = result
        images.add(pixels)
        kept.append(index)
        sizes[size] += 1
    return Prepared(
        collection=collection,
        images=images.array(),
        kept=np.asarray(kept, dtype=np.int64),
        problems=tuple(problems),
        sizes=sizes,
        shapes=images.shapes,
    )


def _prepare_array(
    collection: Collection, images: Images, preprocessing: Preprocessing
) -> Prepared:
    count, height, width, channels = images.shape
    # Images without pixels stay as they are: Dataset refuses them.
    if images.size and not preprocessing.keeps(height, width, channels):
        stack = _Stack(count)
        for pixels in images:
            stack.add(preprocessing.from_array(pixels))
        converted = stack.array()
        assert converted is not None  # a function of the shape alone, so one shape comes out
        images = converted
    shape = (int(images.shape[1]), int(images.shape[2]), int(images.shape[3]))
    return Prepared(
        collection=collection,
        images=images,
        kept=np.arange(count, dtype=np.int64),
        problems=collection.problems,
        sizes=Counter({(height, width): count} if count else {}),
        shapes=Counter({shape: count} if count else {}),
    )


class _Stack:
    """Images written into one array as they come, for as long as they share one shape."""

    def __init__(self, capacity: int) -> None:
        self.shapes: Counter[tuple[int, int, int]] = Counter()
        self._capacity = capacity
        self._array: Images | None = None
        self._count = 0

    def add(self, pixels: Images) -> None:
        height, width, channels = pixels.shape
        self.shapes[(height, width, channels)] += 1
        if len(self.shapes) > 1:
            self._array = None
            return
        if self._array is None:
            self._array = np.empty((self._capacity, *pixels.shape), dtype=np.uint8)
        self._array[self._count] = pixels
        self._count += 1

    def array(self) -> Images | None:
        return None if self._array is None else self._array[: self._count]


def _decoded(
    images: Sequence[Encoded], preprocessing: Preprocessing, progress: Progress | None
) -> Iterator[tuple[Images, tuple[int, int]] | Problem]:
    """Results in order; a few thousand images in flight, so that memory stays bounded."""
    decode, done = partial(_decode_some, preprocessing=preprocessing), 0
    with quiet_pillow(), ThreadPoolExecutor(_THREADS, "dpdm-decode") as pool:
        for start in range(0, len(images), _CHUNK):
            stop = min(start + _CHUNK, len(images))
            tasks = [images[i : min(i + _TASK, stop)] for i in range(start, stop, _TASK)]
            for results in pool.map(decode, tasks):
                yield from results
                done += len(results)
                if progress is not None:
                    progress(done, len(images))


def _decode_some(
    images: Sequence[Encoded], preprocessing: Preprocessing
) -> list[tuple[Images, tuple[int, int]] | Problem]:
    return [_decode_one(image, preprocessing) for image in images]


def _decode_one(
    image: Encoded, preprocessing: Preprocessing
) -> tuple[Images, tuple[int, int]] | Problem:
    try:
        return preprocessing.from_bytes(image.read())
    except BadImage as bad:
        return Problem(image.file, str(bad))
    except OSError as error:
        return Problem(image.file, error.strerror or str(error))


def _first_problems(problems: tuple[Problem, ...], total: int) -> str:
    shown = "; ".join(first_few(problems, 3))
    return (
        f"{len(problems)} of {total} images cannot be used: {shown}. "
        "Repair or remove them, or set data.on_error=skip to leave them out"
    )


def _sizes_seen(sizes: Counter[tuple[int, int]]) -> str:
    counts = [f"{height}x{width} ({times})" for (height, width), times in sizes.most_common()]
    return ", ".join(first_few(counts, 4))


def _suggestion(sizes: Counter[tuple[int, int]]) -> int:
    """The largest of the usual sizes that enlarges no image, or the smallest of them."""
    smallest = min(min(size) for size in sizes)
    return max((size for size in (8, 16, 32, 64, 128) if size <= smallest), default=8)

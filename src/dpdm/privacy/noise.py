"""Where the randomness of the promise comes from: Gaussian noise and Poisson samples of units.

64-bit words become 53-bit uniforms u, and these normals by Box and Muller (1958) in float64 on the
CPU. Known limit: these are floating-point numbers, not reals (Mironov 2012), and end at 8.57
standard deviations; beyond lies a mass of 1e-17. With ``draws`` above 1 a value is the sum of so
many normals over sqrt(draws): the values that a single draw cannot take no longer give it away
(Holohan and Braghin 2021, who advise 4).
"""

from __future__ import annotations

import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from dpdm.processors import cores

Key = tuple[str | int, ...]
Words = Callable[[int], NDArray[np.uint64]]
Fill = Callable[[NDArray[np.float64]], None]

_PAIRS_AT_ONCE = 2**17  # bounds the working memory to a few megabytes, inside the cache
_UNIFORM_BITS = 53


class NoiseSource(ABC):
    """What a mechanism draws from; ``key`` names a draw, such as ``("gradient", step)``.

    ``private`` says whether the promise holds with this source, ``description`` what it is.
    """

    private: ClassVar[bool]
    source: ClassVar[str]

    def __init__(self, draws: int = 1) -> None:
        self._draws = draws

    @property
    def description(self) -> str:
        """The source, for people."""
        many = f"; each value the scaled sum of {self._draws} draws" if self._draws > 1 else ""
        return f"{self.source}{many}"

    @abstractmethod
    def _words(self, key: Key) -> Words:
        """A function that returns the next n uniform 64-bit words of the draw named ``key``."""

    def gaussian(self, shape: int | tuple[int, ...], *, key: Key) -> NDArray[np.float64]:
        """Independent standard normals, float64, of the given shape."""
        words = self._words(key)
        size = math.prod(shape) if isinstance(shape, tuple) else shape
        normals = np.empty(size + size % 2, dtype=np.float64)

        def fill(part: NDArray[np.float64]) -> None:
            _box_muller(words(len(part)), part)
            for _ in range(1, self._draws):
                _box_muller(words(len(part)), more := np.empty_like(part))
                part += more

        at_once = 2 * _PAIRS_AT_ONCE
        self._each(fill, [normals[i : i + at_once] for i in range(0, len(normals), at_once)])
        normals /= math.sqrt(self._draws)
        return normals[:size].reshape(shape)

    def _each(self, fill: Fill, parts: Sequence[NDArray[np.float64]]) -> None:
        """Fills the parts in order: the words of a draw are a sequence."""
        for part in parts:
            fill(part)

    def poisson_mask(self, n: int, rate: float, *, key: Key) -> NDArray[np.bool_]:
        """(n,) independent choices, each True with probability ``rate`` in [0, 1].

        The probability is ``rate`` rounded down to a multiple of 2**-53: never above what is
        accounted. Raises ValueError for a rate outside [0, 1].
        """
        if not 0 <= rate <= 1:
            raise ValueError(f"rate={rate}: must lie in [0, 1]")
        threshold = np.uint64(math.floor(rate * 2.0**_UNIFORM_BITS))
        chosen: NDArray[np.bool_] = _top_bits(self._words(key)(n)) < threshold
        return chosen


class SystemNoise(NoiseSource):
    """Noise from the kernel's cryptographic generator; nothing about it is stored. The default."""

    private = True
    source = (
        "the operating system's cryptographic random generator (os.urandom), 53-bit uniforms made "
        "Gaussian by the Box-Muller transform in float64 on the CPU"
    )

    def _words(self, key: Key) -> Words:
        return lambda n: np.frombuffer(os.urandom(8 * n), dtype=np.uint64)

    def _each(self, fill: Fill, parts: Sequence[NDArray[np.float64]]) -> None:
        """Fills the parts side by side: of the kernel's words none comes before another. Both it
        and numpy let other threads run meanwhile."""
        if len(parts) < 2:
            return super()._each(fill, parts)
        with ThreadPoolExecutor(min(len(parts), cores())) as pool:
            list(pool.map(fill, parts))


class DrawnBeside:
    """Normals of a source, drawn by a thread of its own while other work is done.

    ``gaussian`` gives the draw that was begun; asked for another, it asks the source.
    """

    def __init__(self, source: NoiseSource, size: int, *, key: Key) -> None:
        self._source, self._begun = source, (size, key)
        pool = ThreadPoolExecutor(1)
        self._drawn = pool.submit(source.gaussian, size, key=key)
        pool.shutdown(wait=False)

    def gaussian(self, size: int, *, key: Key) -> NDArray[np.float64]:
        """Independent standard normals, float64 (size,)."""
        if (size, key) == self._begun:
            return self._drawn.result()
        return self._source.gaussian(size, key=key)


def _top_bits(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    return words >> np.uint64(64 - _UNIFORM_BITS)


def _box_muller(words: NDArray[np.uint64], out: NDArray[np.float64]) -> None:
    """Fills ``out`` (2 p,) from 2 p words: r = sqrt(-2 ln u1), (r cos 2 pi u2, r sin 2 pi u2)."""
    half = len(out) // 2
    uniforms = _top_bits(words).astype(np.float64)
    radius, angle = uniforms[:half], uniforms[half:]
    radius += 1.0  # (0, 1] rather than [0, 1): the logarithm stays finite
    radius *= 2.0**-_UNIFORM_BITS
    np.log(radius, out=radius)
    radius *= -2.0
    np.sqrt(radius, out=radius)
    angle *= 2.0 * math.pi * 2.0**-_UNIFORM_BITS
    np.cos(angle, out=out[:half])
    np.sin(angle, out=out[half:])
    out[:half] *= radius
    out[half:] *= radius

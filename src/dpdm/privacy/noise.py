"""Where the randomness of the promise comes from: Gaussian noise and Poisson samples of units.

Both sources turn 64-bit words into 53-bit uniforms u, and these into normals by Box and Muller
(1958), r = sqrt(-2 ln u1), (r cos 2 pi u2, r sin 2 pi u2), in float64 on the CPU. They differ only
in the words: the operating system's cryptographic generator, or a counter generator with a seed
that someone chose. Known limit: the outputs are floating-point numbers, not reals (Mironov 2012),
and end at 8.57 standard deviations; beyond lies a mass of 1e-17, far below any delta.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Key = tuple[str | int, ...]
Words = Callable[[int], NDArray[np.uint64]]

_PAIRS_AT_ONCE = 2**17  # bounds the working memory to a few megabytes, inside the cache
_UNIFORM_BITS = 53


@runtime_checkable
class NoiseSource(Protocol):
    """What a mechanism draws from. ``key`` names a draw, such as ``("gradient", step)``.

    ``private`` says whether the promise holds with this source, ``description`` what it is; both go
    into the statement.
    """

    @property
    def private(self) -> bool:
        """Whether nobody can know the noise."""

    @property
    def description(self) -> str:
        """The source, for people."""

    def gaussian(self, shape: int | tuple[int, ...], *, key: Key) -> NDArray[np.float64]:
        """Independent standard normals, float64, of the given shape."""

    def poisson_mask(self, n: int, rate: float, *, key: Key) -> NDArray[np.bool_]:
        """(n,) independent choices, each True with probability ``rate``."""


class _WordSource(ABC):
    """Normals and choices from 64-bit words."""

    private: ClassVar[bool]
    description: ClassVar[str]

    @abstractmethod
    def _words(self, key: Key) -> Words:
        """A function that returns the next n uniform 64-bit words of the draw named ``key``."""

    def gaussian(self, shape: int | tuple[int, ...], *, key: Key) -> NDArray[np.float64]:
        """Independent standard normals, float64, of the given shape."""
        words = self._words(key)
        size = math.prod(shape) if isinstance(shape, tuple) else shape
        normals = np.empty(size + size % 2, dtype=np.float64)
        for start in range(0, len(normals), 2 * _PAIRS_AT_ONCE):
            part = normals[start : start + 2 * _PAIRS_AT_ONCE]
            _box_muller(words(len(part)), part)
        return normals[:size].reshape(shape)

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


class SystemNoise(_WordSource):
    """Noise from the kernel's cryptographic generator; nothing about it is stored. The default."""

    private = True
    description = (
        "the operating system's cryptographic random generator (os.urandom), 53-bit uniforms made "
        "Gaussian by the Box-Muller transform in float64 on the CPU"
    )

    def _words(self, key: Key) -> Words:
        return lambda n: np.frombuffer(os.urandom(8 * n), dtype=np.uint64)


class SeededNoise(_WordSource):
    """Reproducible noise, and therefore NOT private: who knows the seed can subtract it.

    Every draw depends on the seed and its key alone, so that a resumed run needs no stored state:
    the words are Philox 4x64 (Salmon et al. 2011) keyed by a hash of both.
    """

    private = False
    description = (
        "a pseudo-random generator (Philox) with a chosen seed: reproducible, and not private"
    )

    def __init__(self, seed: int) -> None:
        self._seed = int(seed)

    def _words(self, key: Key) -> Words:
        name = json.dumps([self._seed, *key]).encode()
        entropy = int.from_bytes(hashlib.sha256(name).digest(), "big")
        return np.random.Philox(np.random.SeedSequence(entropy)).random_raw


def _top_bits(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    return words >> np.uint64(64 - _UNIFORM_BITS)


def _box_muller(words: NDArray[np.uint64], out: NDArray[np.float64]) -> None:
    """Fills ``out`` (2 p,) with normals from 2 p words."""
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

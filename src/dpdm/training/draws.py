"""Randomness outside the promise, keyed by (seed, purpose, step): nothing has to be stored.

Initial weights, views and warm-up draw from here. Poisson sampling and the noise of mechanisms do
not: theirs is ``dpdm.privacy.NoiseSource``.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

SECRET_BITS = 256
"""Of a seed that nobody may find by trying."""

_WORDS = slice(3, 627)
"""The 624 words of the Mersenne twister in a state of torch's CPU generator, 8 bytes each."""


def _key(seed: int, purpose: str, step: int) -> np.random.SeedSequence:
    entropy = [seed, zlib.crc32(purpose.encode()), step]
    return np.random.SeedSequence(entropy, pool_size=SECRET_BITS // 32)


def _set(generator: torch.Generator, key: np.random.SeedSequence) -> None:
    """Sets a generator by all of a key.

    Of a seed torch's generator on a CPU takes no more than 32 bits, so that its whole state is
    filled there; on a GPU a seed has 64.
    """
    generator.manual_seed(int(key.generate_state(1, np.uint64)[0]))
    if generator.device.type == "cpu":
        state = generator.get_state()
        state.numpy().view(np.uint64)[_WORDS] = key.generate_state(624)
        generator.set_state(state)


def keyed_generator(
    seed: int, purpose: str, step: int = 0, device: torch.device | str = "cpu"
) -> torch.Generator:
    """A generator that depends on its key alone, so that a resumed step repeats its draws.

    On another kind of ``device`` it draws other numbers of the same law.
    """
    generator = torch.Generator(device)
    _set(generator, _key(seed, purpose, step))
    return generator


@contextmanager
def keyed_dropout(seed: int, step: int) -> Iterator[None]:
    """Torch's global generators, which dropout draws from, set by key and put back afterwards."""
    key = _key(seed, "dropout", step)
    with torch.random.fork_rng():
        torch.manual_seed(int(key.generate_state(1, np.uint64)[0]))
        _set(torch.default_generator, key)
        yield

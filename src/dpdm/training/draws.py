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


def _key(seed: int, purpose: str, step: int) -> int:
    sequence = np.random.SeedSequence([seed, zlib.crc32(purpose.encode()), step])
    return int(sequence.generate_state(1, np.uint64)[0])


def keyed_generator(
    seed: int, purpose: str, step: int = 0, device: torch.device | str = "cpu"
) -> torch.Generator:
    """A generator that depends on its key alone, so that a resumed step repeats its draws.

    On another kind of ``device`` it draws other numbers of the same law.
    """
    generator = torch.Generator(device)
    generator.manual_seed(_key(seed, purpose, step))
    return generator


@contextmanager
def keyed_dropout(seed: int, step: int) -> Iterator[None]:
    """Torch's global generators, which dropout draws from, set by key and put back afterwards."""
    with torch.random.fork_rng():
        torch.manual_seed(_key(seed, "dropout", step))
        yield

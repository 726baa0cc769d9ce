"""Randomness outside the promise, keyed by (seed, purpose, step): nothing has to be stored.

Initial weights, views and warm-up draw from here. Poisson sampling and the noise of mechanisms do
not: theirs is ``dpdm.privacy.NoiseSource``.
"""

from __future__ import annotations

import zlib

import numpy as np
import torch


def keyed_generator(seed: int, purpose: str, step: int = 0) -> torch.Generator:
    """A CPU generator that depends on its key alone, so that a resumed step repeats its draws."""
    sequence = np.random.SeedSequence([seed, zlib.crc32(purpose.encode()), step])
    generator = torch.Generator()
    generator.manual_seed(int(sequence.generate_state(1, np.uint64)[0]))
    return generator

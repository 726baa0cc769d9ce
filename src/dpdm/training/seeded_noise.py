"""Noise that can be drawn again: for runs without a promise."""

from __future__ import annotations

import hashlib
import json

import numpy as np

from dpdm.privacy import Ledger
from dpdm.privacy.noise import Key, NoiseSource, Words


class SeededNoise(NoiseSource):
    """Reproducible noise, and therefore NOT private: who knows the seed can subtract it.

    Every draw depends on the seed and its key alone, so that a resumed run needs no stored state:
    the words are Philox 4x64 (Salmon et al. 2011) keyed by a hash of both.
    """

    private = False
    source = "a pseudo-random generator (Philox) with a chosen seed: reproducible, and not private"

    def __init__(self, seed: int, draws: int = 1) -> None:
        super().__init__(draws)
        self._seed = int(seed)

    def _words(self, key: Key) -> Words:
        name = json.dumps([self._seed, *key]).encode()
        entropy = int.from_bytes(hashlib.sha256(name).digest(), "big")
        return np.random.Philox(np.random.SeedSequence(entropy)).random_raw


def drew_from_seed(ledger: Ledger) -> bool:
    """Whether a ledger's noise was such: no epsilon holds of what its runs released."""
    return str(ledger.header["noise_source"]).startswith(SeededNoise.source)

"""The operating system's entropy is replayed here, each test from its own beginning.

What is tested is statistics of mechanisms and attacks: with fresh entropy one run in so many fails
by chance. The source itself is tested in ``tests/privacy``.
"""

from __future__ import annotations

import hashlib
from types import SimpleNamespace

import numpy as np
import pytest

from dpdm.privacy import noise


@pytest.fixture(autouse=True)
def _replayed_entropy(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    seed = int.from_bytes(hashlib.sha256(request.node.nodeid.encode()).digest()[:8], "big")
    monkeypatch.setattr(noise, "os", SimpleNamespace(urandom=np.random.default_rng(seed).bytes))

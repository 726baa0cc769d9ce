"""Kernels run on a GPU, or in Triton's interpreter (``tests/conftest.py`` asks for it)."""

from __future__ import annotations

import os
from importlib.util import find_spec

import pytest
import torch


@pytest.fixture(autouse=True)
def kernels_run() -> None:
    """Skips without Triton, and where it can neither compile nor interpret."""
    if find_spec("triton") is None:
        pytest.skip("Triton is not installed")
    if not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("neither a GPU nor TRITON_INTERPRET=1")

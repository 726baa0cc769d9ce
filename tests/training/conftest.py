"""A run that takes a second: 8x8 digits, a network of a few thousand weights, six steps."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from dpdm.config import Config, load_config
from dpdm.data import Dataset, open_dataset

SMALL = (
    "training.batch_size=64",
    "training.least_signal=0",
    "training.steps=6",
    "training.microbatch=32",
    "training.checkpoint_every=2",
    "views.count=2",
    "network.base_channels=8",
    "network.multipliers=[1]",
    "network.noise_frequencies=[4.0, 0.1]",
    "sampling.count=40",
    "sampling.steps=3",
    "prior.share=0.5",
)


@pytest.fixture(scope="session")
def digits() -> Dataset:
    return open_dataset("digits")


@pytest.fixture
def small() -> Callable[..., Config]:
    """``small("key=value", ...)``: the digits preset made tiny, with changes."""

    def make(*changes: str) -> Config:
        return load_config("digits", [*SMALL, *changes])

    return make


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)

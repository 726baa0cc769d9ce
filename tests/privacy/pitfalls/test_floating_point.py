"""The twelfth way to be wrong: floating point; attacks and undone guards as in the files beside."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, find, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample

from dpdm.privacy import DpSgdStep, NoisedSum, PrivateUnits, Session
from dpdm.privacy.gradients import clipping
from dpdm.training.seeded_noise import SeededNoise


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@dataclass(frozen=True)
class Unledgered(Session):
    """Hands out the noise and writes nothing down."""

    def __post_init__(self) -> None:
        pass

    def spend(self, mechanism, step):
        return self.noise


class Everyone(SeededNoise):
    """Every unit is in the sample."""

    def poisson_mask(self, n, rate, *, key):
        return np.ones(n, bool)


def as_gradient(rows, labels):
    """The gradient of a unit is its row."""
    return rows.norm(dim=1), {"weight": rows}


@dataclass(frozen=True)
class Unrounded(DpSgdStep):
    """A step whose sum is seen before noise and rounding, in float64."""

    def sums(self, rows: torch.Tensor) -> torch.Tensor:
        caught: list[torch.Tensor] = []
        object.__setattr__(self, "_add_noise", lambda total, *_: caught.append(total["weight"]))
        session = Unledgered(None, Everyone(0))
        self.release(PrivateUnits(rows), as_gradient, {"weight": rows[0]}, session, 0)
        return caught[0].clone()


@st.composite
def batches(draw: Any) -> tuple[torch.Tensor, int, int, float]:
    """Rows (N, d) of any precision and size, the target's place, the microbatch, C."""
    dtype = draw(st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64]))
    count, size = draw(st.integers(1, 24)), draw(st.sampled_from([1, 2, 7, 300]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    rows = torch.randn(count, size, generator=generator, dtype=torch.float64)
    if draw(st.booleans()):  # all gradients alike: the sum is as large as it can be
        rows = rows[:1] * (1 + 1e-3 * torch.rand(count, 1, generator=generator))
    exponents = st.sampled_from([-310, -160, -40, -8, -4, -1, 0, 1, 4, 30, 37, 150, 300])
    scale = 10.0 ** torch.tensor(draw(st.lists(exponents, min_size=count, max_size=count)))
    largest = torch.finfo(dtype).max
    rows = (rows * scale.double()[:, None]).clamp(-largest, largest).to(dtype)
    max_norm = 10.0 ** draw(st.integers(-8, 4))
    return rows, draw(st.integers(0, count - 1)), draw(st.integers(1, 9)), max_norm


def exceeds(batch: tuple[torch.Tensor, int, int, float]) -> bool:
    """Whether the target moves the computed sum by more than C, or is itself longer than C."""
    rows, target, microbatch, max_norm = batch
    mechanism = Unrounded(1.0, 1.0, max_norm, 1.0, microbatch)
    others = torch.cat([rows[:target], rows[target + 1 :]])
    alone = mechanism.sums(rows[target : target + 1])
    change = mechanism.sums(rows) - (mechanism.sums(others) if len(others) else 0.0)
    return max(_length(alone), _length(change)) > max_norm


def _length(vector: torch.Tensor) -> float:
    """The norm, its squares added exactly."""
    return math.sqrt(math.fsum(float(entry) ** 2 for entry in vector.tolist()))


def attack_12() -> tuple[torch.Tensor, int, int, float] | None:
    """A norm, a factor and a sum are rounded, and a sum depends on its order: so a gradient that
    was clipped to C may come out longer, and a unit that moves the others to other microbatches
    moves their sum by more than itself. (Casacuberta et al. 2022, "Widespread Underestimation of
    Sensitivity": order and rounding of sums; clip factors with a margin.) Searches for a batch, of
    any precision, with subnormal and huge values, where it happens; None where none is found."""
    search = settings(
        max_examples=250,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    try:
        return find(batches(), exceeds, settings=search)
    except NoSuchExample:
        return None


def test_12_no_batch_is_found_whose_computed_sum_moves_by_more_than_c():
    assert attack_12() is None


def test_12_undone_without_the_margin_a_batch_is_found(monkeypatch):
    monkeypatch.setattr(clipping, "MARGIN", 0.0)
    assert attack_12() is not None


def test_12_undone_sums_in_single_precision_are_found(monkeypatch):
    def single(gradient, factors, dropped):
        rows = gradient if dropped is None else gradient.masked_fill(dropped[:, None], 0.0)
        return torch.einsum("u...,u->...", rows.float(), factors.float()).double()

    monkeypatch.setattr(clipping, "_weighted_sum", single)
    monkeypatch.setattr(clipping, "MARGIN", 1e-9)
    assert attack_12() is not None


def test_12_undone_norms_in_the_gradients_own_precision_are_found(monkeypatch):
    def low(gradients):
        flat = torch.cat([g.flatten(1) for g in gradients.values()], dim=1)
        return flat.square().sum(1).sqrt().double()

    monkeypatch.setattr(clipping, "per_unit_norms", low)
    assert attack_12() is not None


def attack_12_noise() -> bool:
    """Noise that was drawn or rounded in low precision takes few values: subtracting the sum that
    would be there without the target, and the one with it, leaves such a value only for the true
    one (Mironov 2012). Returns whether the attacker tells which of the two sums is under the noise,
    by asking which difference is a number of half precision."""
    sums = np.array([3.0, 3.0 + 0.1234567])
    right = 0
    for number in range(50):
        truth = number % 2
        data = PrivateUnits(np.array([[sums[truth]]]))
        session = Unledgered(None, SeededNoise(5))
        released = NoisedSum("sum", 1.0, 8.0).release(data, lambda rows, _: rows, session, number)
        rest = (released[0, 0] - sums) / 8.0
        error = np.abs(rest - rest.astype(np.float16)) / np.abs(rest)
        right += int(error.argmin()) == truth and error.min() < 1e-9
    return right >= 45


def test_12_the_noises_values_do_not_say_which_sum_is_under_them():
    assert not attack_12_noise()


def test_12_undone_noise_in_half_precision_is_seen_through(monkeypatch):
    proper = SeededNoise.gaussian
    monkeypatch.setattr(
        SeededNoise,
        "gaussian",
        lambda self, *given, **key: proper(self, *given, **key).astype(np.float16).astype(float),
    )
    assert attack_12_noise()

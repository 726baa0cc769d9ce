"""Neighbouring data sets, 2,000 runs of one step: what the runs show lies within the claimed curve.

One data set has a unit more. The curve is that of the mechanism in closed form; a test's errors are
compared with it, band and all. With a planted fault a test exists that errs less.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pytest
import torch
from scipy.stats import norm

from dpdm.audit import empirical_trade_off
from dpdm.privacy import DpSgdStep, NoisedSum, PrivateUnits, Session, SystemNoise, mechanisms, noise
from dpdm.training.seeded_noise import SeededNoise

RUNS, DIMENSION, CONFIDENCE = 1000, 40, 1 - 1e-5
# One other unit in the data, which adds nothing; the unit in question is far beyond the clip norm.
OTHER, UNIT = np.zeros(DIMENSION), np.eye(DIMENSION)[0] * 1e3


@dataclass(frozen=True)
class Unwritten(Session):
    """A session without a ledger: 2,000 runs would wait for 2,000 records to reach the disk."""

    def spend(self, mechanism, step):
        return self.noise


STEP = DpSgdStep(0.75, 0.8, max_grad_norm=2.0, expected_units=1.0, microbatch=2)
RARER = replace(STEP, sample_rate=0.5, noise_multiplier=0.6)
SUM = NoisedSum("sum", 0.8, 2.0)


def one_step(rows: np.ndarray, mechanism: DpSgdStep = STEP) -> np.ndarray:
    units = PrivateUnits(torch.from_numpy(rows))
    gradients = lambda rows, _: (torch.zeros(len(rows)), {"entry": rows})  # noqa: E731
    session, like = Unwritten(None, SystemNoise()), {"entry": torch.zeros(DIMENSION)}
    noised, _ = mechanism.release(units, gradients, like, session, 0)
    return noised["entry"].double().numpy() / 2.0


def one_sum(rows: np.ndarray) -> np.ndarray:
    session = Unwritten(None, SystemNoise())
    return SUM.release(PrivateUnits(rows), lambda rows, _: rows, session)[0] / 2.0


def curve(sample_rate: float, noise_multiplier: float) -> Callable[[np.ndarray], np.ndarray]:
    """N(0, s^2) against (1 - q) N(0, s^2) + q N(1, s^2): the threshold test is the best there is.

    The likelihood ratio grows with the value, so this is exact (Neyman and Pearson)."""

    def least_false_negatives(rate: np.ndarray) -> np.ndarray:
        threshold = norm.isf(rate)
        missed = norm.cdf(threshold - 1 / noise_multiplier)
        return (1 - sample_rate) * norm.cdf(threshold) + sample_rate * missed

    return least_false_negatives


CASES = {
    "step": (one_step, curve(0.75, 0.8)),
    "rarer step": (partial(one_step, mechanism=RARER), curve(0.5, 0.6)),
    "sum": (one_sum, curve(1.0, 0.8)),
}


def projected(values: np.ndarray) -> np.ndarray:
    """The score of an attacker who knows the unit."""
    return values[:, 0]


def quietness(values: np.ndarray) -> np.ndarray:
    """The score of one who looks at the size of the noise where the unit is not."""
    return -(values[:, 1:] ** 2).sum(axis=1)


def runs(case: str) -> tuple[np.ndarray, np.ndarray]:
    release, _ = CASES[case]
    without, with_unit = np.stack([OTHER]), np.stack([OTHER, UNIT])
    return (
        np.stack([release(without) for _ in range(RUNS)]),
        np.stack([release(with_unit) for _ in range(RUNS)]),
    )


def refuted(case: str, score: Callable[[np.ndarray], np.ndarray] = projected) -> bool:
    without, with_unit = map(score, runs(case))
    return empirical_trade_off(without, with_unit, CONFIDENCE).refutes(CASES[case][1])


@pytest.fixture(scope="module", params=CASES)
def sound(request):
    """Runs without a fault, and the claimed curve."""
    return runs(request.param), CASES[request.param][1]


@pytest.mark.parametrize("score", [projected, quietness])
def test_two_thousand_runs_lie_within_the_claimed_curve(sound, score):
    (without, with_unit), claimed = sound
    found = empirical_trade_off(score(without), score(with_unit), CONFIDENCE)
    assert not found.refutes(claimed)


def test_the_runs_follow_the_claimed_curve_as_closely_as_their_number_allows(sound):
    (without, with_unit), claimed = sound
    found = empirical_trade_off(projected(without), projected(with_unit), CONFIDENCE)
    least = claimed(np.minimum(1.0, found.false_positives + found.margins[0]))
    most = claimed(np.maximum(0.0, found.false_positives - found.margins[0]))
    assert (found.false_negatives >= least - found.margins[1]).all()
    assert (found.false_negatives <= most + found.margins[1]).all()


def test_half_the_noise_is_refuted(monkeypatch):
    original = noise.NoiseSource.gaussian
    monkeypatch.setattr(
        noise.NoiseSource,
        "gaussian",
        lambda self, shape, *, key: original(self, shape, key=key) / 2,
    )
    assert refuted("step")
    assert refuted("sum")


def test_no_clipping_is_refuted(monkeypatch):
    original = mechanisms.clip_and_sum
    monkeypatch.setattr(
        mechanisms,
        "clip_and_sum",
        lambda gradients, max_norm, weights: original(gradients, 1e9, weights),
    )
    monkeypatch.setattr(mechanisms, "clip_rows", lambda vectors, max_norm: vectors)
    assert refuted("step")
    assert refuted("sum")


def test_a_normaliser_from_the_data_is_refuted(monkeypatch):
    """The number of units in the data as divisor: noise and all are smaller with one more."""
    original = DpSgdStep.release

    def release(self, units, *rest):
        size = units._count(mechanisms.DOOR)
        return original(replace(self, expected_units=float(size)), units, *rest)

    monkeypatch.setattr(DpSgdStep, "release", release)
    assert refuted("step", quietness)


def test_the_same_batch_in_every_run_is_refuted(monkeypatch):
    """Drawn once, with the unit in it, and used again: its presence is certain, not one half."""
    monkeypatch.setattr(
        noise.NoiseSource, "poisson_mask", lambda self, n, rate, *, key: np.ones(n, dtype=bool)
    )
    assert refuted("rarer step")


def test_noise_of_a_fixed_seed_is_refuted(monkeypatch):
    """Who has the seed subtracts the noise."""
    monkeypatch.setattr(SystemNoise, "_words", lambda self, key: SeededNoise(5)._words(key))
    known = SeededNoise(5).gaussian(DIMENSION, key=("DP-SGD step", 0)) * 0.8
    assert refuted("step", lambda values: projected(values - known).round(3))
    known = SeededNoise(5).gaussian((1, DIMENSION), key=("sum", 0))[0] * 0.8
    assert refuted("sum", lambda values: projected(values - known).round(3))

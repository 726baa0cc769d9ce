"""Many trainings of a small network, with and without one unit: a lower bound on epsilon."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import nn

from dpdm.audit import many_run_epsilon
from dpdm.privacy import (
    DpSgdStep,
    Event,
    PrivateUnits,
    Session,
    SystemNoise,
    epsilon,
    per_unit_gradients,
)

RUNS, STEPS, DELTA, CONFIDENCE = 500, 3, 1e-5, 0.95
# Where nothing is wrong there is little noise: the bound must find epsilon, and with 500 runs at
# noise 2.2 it is 0 in one of eleven cases. A fault has to lift it above the claim, which 500 runs
# can only do where that is below 4.2: more noise.
SOUND = DpSgdStep(1.0, 1.0, max_grad_norm=1.0, expected_units=4.0, microbatch=4)
FAULTY = replace(SOUND, noise_multiplier=2.2)
# Inputs and targets. The last unit, the canary, has an input of its own: its gradient lies in a
# direction that the others leave alone, and is far beyond the clip norm.
ROWS = torch.tensor(
    [[1.0, 0.0, 0.0, 1.0], [0.5, 0.1, 0.0, 1.0], [-1.0, 0.3, 0.0, -1.0], [0.0, 0.0, 9.0, 99.0]]
)
NETWORK = nn.Linear(3, 1, bias=False)


@dataclass(frozen=True)
class Unwritten(Session):
    """A session without a ledger, for the sake of speed."""

    def spend(self, mechanism, step):
        return self.noise


def squared_error(module, x, y):
    return (module(x)[:, 0] - y).square()


def claim(mechanism: DpSgdStep) -> float:
    return epsilon([(Event(mechanism.noise_multiplier), STEPS)], DELTA)


def score(mechanism: DpSgdStep, rows: torch.Tensor) -> float:
    """A training of three steps; what an attacker who sees every noised gradient makes of it."""
    nn.init.zeros_(NETWORK.weight)
    units, seen = PrivateUnits(rows), 0.0
    session, like = Unwritten(None, SystemNoise()), {"weight": torch.zeros(1, 3)}

    def gradients(given, _):
        return per_unit_gradients(NETWORK, squared_error, (given[:, :3], given[:, 3]), views=1)

    for step in range(STEPS):
        noised, _ = mechanism.release(units, gradients, like, session, step)
        NETWORK.weight.data -= 0.1 * noised["weight"]
        seen -= float(noised["weight"][0, 2])
    return seen


def bound(mechanism: DpSgdStep) -> float:
    without = np.array([score(mechanism, ROWS[:3]) for _ in range(RUNS)])
    with_unit = np.array([score(mechanism, ROWS) for _ in range(RUNS)])
    return many_run_epsilon(without, with_unit, DELTA, CONFIDENCE)


def test_the_bound_of_many_runs_is_above_zero_and_below_the_claim():
    assert 0 < bound(SOUND) <= claim(SOUND)


def test_clipping_off_lifts_it_above_the_claim(monkeypatch):
    monkeypatch.setattr("dpdm.privacy.gradients.clipping.clip_factors", lambda n, _: n * 0 + 1)
    assert bound(FAULTY) > claim(FAULTY)


def test_a_tenth_of_the_noise_lifts_it_above_the_claim(monkeypatch):
    whole = DpSgdStep._add_noise

    def little(self, total, noise, step):
        before = {name: value.clone() for name, value in total.items()}
        whole(self, total, noise, step)
        for name, value in total.items():
            value.copy_(before[name] + 0.1 * (value - before[name]))

    monkeypatch.setattr(DpSgdStep, "_add_noise", little)
    assert bound(FAULTY) > claim(FAULTY)


def test_the_claim_is_what_three_gaussians_spend():
    once = epsilon([(Event(2.2 / 3**0.5), 1)], DELTA)
    assert claim(FAULTY) == pytest.approx(once, rel=1e-3)

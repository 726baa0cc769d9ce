"""The checks alone: on few canaries, on many steps, and that they are as rare as stated."""

from __future__ import annotations

import math
import tracemalloc

import numpy as np
import pytest
from scipy.stats import kstest

from dpdm.audit import checks
from dpdm.audit.canaries import Canaries
from dpdm.privacy import DpSgdStep

STEP = DpSgdStep(1.0, 2.0, max_grad_norm=1.0, expected_units=100.0, microbatch=10)
SAMPLES = "DP-SGD step: each step has a sample of its own"


def found(members: int, deviations: float) -> dict[str, checks.Check]:
    """Four steps in which each member's total is so far from what is expected."""
    generator = np.random.default_rng(0)
    canaries = Canaries(10, 256, generator)
    canaries.included[:] = np.arange(10) < members
    seen = 2.0 * generator.standard_normal((4, canaries.width))
    seen[:, :members] = 1.0 + deviations * 2.0 / math.sqrt(4) * np.where(
        np.arange(members) % 2, 1, -1
    )
    made = checks._step_checks(STEP, seen.astype(np.float32), canaries)
    return {check.name: check for check in made}


def test_of_few_members_a_sum_of_squares_is_as_rare_as_a_chi_square_says():
    """2e-4: far beyond 5.5 standard deviations of it, which it is not normal to count in."""
    assert found(members=4, deviations=2.35)[SAMPLES].passed
    assert not found(members=4, deviations=4.0)[SAMPLES].passed


def test_without_members_what_is_about_them_is_left_out():
    made = found(members=0, deviations=0.0)
    assert len(made) == 4
    assert all(check.passed for check in made.values())
    for name in (SAMPLES, "DP-SGD step: a unit is in a step with the sample rate"):
        assert made[name].seen.startswith("left out")


@pytest.mark.parametrize(
    ("rate", "noise", "terms"), [(0.03, 2.0, 100), (0.03, 0.36, 3), (0.01, 0.1, 10), (1.0, 2.0, 5)]
)
def test_a_members_total_becomes_a_standard_normal_whatever_the_rate(rate, noise, terms):
    generator = np.random.default_rng(1)
    totals = generator.binomial(terms, rate, 20_000) + 0.0
    totals += noise * math.sqrt(terms) * generator.standard_normal(20_000)
    normal = checks._as_normal(totals, terms, DpSgdStep(rate, noise, 1.0, 1.0, 1))
    assert kstest(normal, "norm").pvalue > 1e-3


def test_a_total_that_cannot_be_is_many_deviations_off():
    far = checks._as_normal(np.array([-1e9, 1e9]), 20, DpSgdStep(0.03, 2.0, 1.0, 1.0, 1))
    assert far[0] < -30
    assert far[1] > 30


def test_correlations_in_blocks_are_those_of_all_rows(monkeypatch):
    rows = np.random.default_rng(2).standard_normal((11, 30))
    monkeypatch.setattr(checks, "_AT_ONCE", 4)
    whole = np.abs(np.triu(rows @ rows.T / 30, 1)).max()
    assert checks._largest_correlation(rows) == pytest.approx(whole)
    rows[0, 0] = math.nan
    assert math.isnan(checks._largest_correlation(rows))


def test_many_steps_do_not_take_memory_by_their_square():
    steps, canaries = 4000, Canaries(10, 256, np.random.default_rng(3))
    seen = 2.0 * np.random.default_rng(4).standard_normal((steps, canaries.width))
    seen[3999, 10:] = seen[5, 10:]
    tracemalloc.start()
    made = checks._step_checks(STEP, seen.astype(np.float32), canaries)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    failed = [check.name for check in made if not check.passed]
    assert "DP-SGD step: each step has noise of its own" in failed
    assert peak < steps**2 * 8 / 3

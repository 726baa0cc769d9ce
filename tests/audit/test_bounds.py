"""The bounds: closed cases, and that they hold, and are tight, where epsilon is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import binom, norm

from dpdm.audit.bounds import (
    empirical_trade_off,
    many_run_epsilon,
    one_run_epsilon,
    p_value,
)


def test_without_delta_the_p_value_is_the_tail_of_a_binomial():
    right = math.exp(1.5) / (1 + math.exp(1.5))
    tail = sum(math.comb(40, k) * right**k * (1 - right) ** (40 - k) for k in range(36, 41))
    assert p_value(100, 40, 36, 1.5, 0.0) == pytest.approx(tail)


def test_delta_adds_what_a_loop_over_the_theorem_adds():
    m, r, v, right, delta = 300, 50, 44, 1 / (1 + math.exp(-2.0)), 1e-4
    worst = max(sum(binom.pmf(w, r, right) for w in range(v - i, v)) / i for i in range(1, v + 1))
    expected = sum(binom.pmf(w, r, right) for w in range(v, r + 1)) + 2 * m * delta * worst
    assert p_value(m, r, v, 2.0, delta) == pytest.approx(expected)


def test_the_p_value_grows_with_epsilon_and_delta_and_falls_with_right_guesses():
    by_epsilon = [p_value(200, 60, 55, epsilon, 1e-4) for epsilon in np.linspace(0, 4, 20)]
    assert by_epsilon == sorted(by_epsilon)
    by_delta = [p_value(200, 60, 55, 1.0, delta) for delta in (0, 1e-6, 1e-4, 1e-2)]
    assert by_delta == sorted(by_delta)
    by_right = [p_value(200, 60, correct, 1.0, 1e-5) for correct in range(61)]
    assert by_right == sorted(by_right, reverse=True)


def test_all_right_at_delta_zero_has_a_closed_form():
    # P[W = r] = sigmoid(epsilon)^r = 0.05
    right = 0.05 ** (1 / 30)
    assert one_run_epsilon(30, 30, 30, 0.0, 0.95) == pytest.approx(math.log(right / (1 - right)))


def test_guesses_no_better_than_chance_refute_nothing():
    assert one_run_epsilon(100, 100, 50, 1e-5, 0.95) == 0.0
    assert one_run_epsilon(100, 0, 0, 1e-5, 0.95) == 0.0


def test_impossible_counts_are_refused():
    with pytest.raises(ValueError, match="guesses"):
        p_value(10, 11, 3, 1.0, 0.0)


@pytest.mark.parametrize("epsilon", [0.5, 2.0])
def test_on_randomised_response_the_bound_holds_as_often_as_stated_and_is_tight(epsilon):
    generator = np.random.default_rng(1)
    right = 1 / (1 + math.exp(-epsilon))
    correct = generator.binomial(200, right, size=1000)
    bounds = np.array([one_run_epsilon(200, 200, int(v), 0.0, 0.95) for v in correct])
    assert (bounds > epsilon).mean() <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 1000)
    many = one_run_epsilon(10**6, 10**6, round(right * 10**6), 0.0, 0.95)
    assert epsilon - 0.02 < many <= epsilon


def gaussian_trade_off(distance: float):
    """Of N(0, 1) against N(distance, 1): Dong, Roth and Su 2022, eq. 6."""
    return lambda rate: norm.cdf(norm.ppf(1 - np.asarray(rate)) - distance)


def gaussian_epsilon(distance: float, delta: float) -> float:
    """Balle and Wang 2018, Theorem 8, by a search on a grid."""
    grid = np.linspace(0, 20, 200_001)
    spent = norm.cdf(distance / 2 - grid / distance) - np.exp(grid) * norm.cdf(
        -distance / 2 - grid / distance
    )
    return float(grid[np.argmax(spent <= delta)])


def test_the_many_run_bound_holds_as_often_as_stated_and_has_power():
    generator = np.random.default_rng(2)
    known, bounds = gaussian_epsilon(1.0, 1e-5), []
    for _ in range(100):
        without, with_unit = generator.standard_normal((2, 1000))
        bounds.append(many_run_epsilon(without, with_unit + 1.0, 1e-5, 0.95))
    assert max(bounds) <= known
    assert np.mean(bounds) > 1.0


def test_the_many_run_bound_looks_in_both_directions():
    """What absence alone shows: with the unit a score of 0 never occurs."""
    generator = np.random.default_rng(3)
    without = generator.integers(0, 2, 2000).astype(float)
    assert many_run_epsilon(without, np.ones(2000), 1e-5, 0.95) > 4
    assert many_run_epsilon(-np.ones(2000), -without, 1e-5, 0.95) > 4


def test_the_empirical_trade_off_of_gaussians_lies_within_theirs_and_not_within_a_closer_pair():
    generator = np.random.default_rng(4)
    refuted = 0
    for _ in range(100):
        without, with_unit = generator.standard_normal((2, 1000))
        curve = empirical_trade_off(without, with_unit + 1.0, 0.95)
        refuted += curve.refutes(gaussian_trade_off(1.0))
        assert curve.refutes(gaussian_trade_off(0.5))
    assert refuted <= 5


def test_the_curve_runs_from_accepting_all_to_rejecting_all():
    curve = empirical_trade_off(np.array([0.0, 1.0]), np.array([1.0, 2.0]), 0.95)
    np.testing.assert_allclose(curve.false_positives, [1.0, 0.5, 0.0, 0.0])
    np.testing.assert_allclose(curve.false_negatives, [0.0, 0.0, 0.5, 1.0])
    assert curve.margins[0] == pytest.approx(math.sqrt(math.log(2 / 0.025) / 4))

"""The bounds on attackers: never below what the best attack achieves, and hardly above it."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.stats import binom, norm

from dpdm.privacy.accounting import epsilon
from dpdm.promise.attack import (
    FALSE_POSITIVE_RATES,
    advantage,
    attack_bounds,
    privacy_curve,
    true_positive_rate,
)
from dpdm.promise.planning import gaussian, poisson_sampled_gaussian
from dpdm.promise.statement import build_statement
from dpdm.promise.wording import render_markdown

RATES = (*FALSE_POSITIVE_RATES, 1e-5, 0.3, 0.5, 0.9, 0.999)


@pytest.mark.parametrize("sigma", [0.4, 1.0, 4.0, 30.0, 1000.0])
def test_for_one_gaussian_the_bound_is_the_power_of_the_best_test(sigma):
    # Dong, Roth and Su 2022, Theorem 2.7: TPR(f) = Phi(Phi^-1(f) + 1 / sigma).
    curve = privacy_curve([(gaussian(sigma), 1)])
    for rate in RATES:
        power = norm.sf(norm.isf(rate) - 1 / sigma)
        assert power <= true_positive_rate(curve, rate) <= 1.01 * power
    distance = 2 * norm.cdf(1 / (2 * sigma)) - 1
    assert distance <= advantage(curve) * (1 + 1e-9) <= 1.001 * distance


@pytest.mark.parametrize(("sigma", "count"), [(3.0, 4), (10.0, 50), (40.0, 1000)])
def test_n_gaussians_are_one_with_noise_smaller_by_the_root_of_n(sigma, count):
    curve = privacy_curve([(gaussian(sigma), count)])
    for rate in RATES:
        power = norm.sf(norm.isf(rate) - math.sqrt(count) / sigma)
        assert power <= true_positive_rate(curve, rate) <= 1.01 * power


def test_different_gaussians_add_up_in_squares():
    curve = privacy_curve([(gaussian(2.0), 1), (gaussian(3.0), 2)])
    together = math.sqrt(1 / 4 + 2 / 9)
    for rate in RATES:
        power = norm.sf(norm.isf(rate) - together)
        assert power <= true_positive_rate(curve, rate) <= 1.01 * power


@pytest.mark.parametrize(("q", "sigma"), [(0.05, 1.0), (0.3, 2.0), (0.5, 0.7), (0.001, 0.6)])
def test_for_one_sampled_step_it_is_the_power_of_the_likelihood_ratio(q, sigma):
    # Neyman and Pearson, by summing both densities over a grid in the order of their ratio.
    x = np.linspace(-12 * sigma, 12 * sigma + 1, 100_001)
    without = norm.pdf(x, scale=sigma)
    with_unit = (1 - q) * without + q * norm.pdf(x, loc=1, scale=sigma)
    order = np.argsort(-with_unit / without)
    false_positives, found = (np.cumsum(p[order]) * (x[1] - x[0]) for p in (without, with_unit))
    curve = privacy_curve([(poisson_sampled_gaussian(q, sigma), 1)])
    for rate in RATES:
        power = np.interp(rate, false_positives, found)
        bound = true_positive_rate(curve, rate)
        assert bound >= power * (1 - 1e-5)
        if rate in FALSE_POSITIVE_RATES:
            assert bound <= 1.01 * power


def test_no_attack_on_many_sampled_steps_beats_the_bound():
    # An attacker adds up the log likelihood ratios of all steps: this is the best attack there is.
    # Its rates are measured on draws; each may be off by what a binomial is, 1 in 10,000 times.
    q, sigma, steps, draws = 0.1, 1.0, 50, 40_000
    random = np.random.default_rng(5)

    def scores(member: bool) -> np.ndarray:
        total = np.zeros(draws)
        for _ in range(steps):
            there = random.random(draws) < q if member else np.zeros(draws, bool)
            x = sigma * random.standard_normal(draws) + there
            total += np.log1p(q * np.expm1((2 * x - 1) / (2 * sigma**2)))
        return total

    members, others = scores(True), scores(False)
    curve = privacy_curve([(poisson_sampled_gaussian(q, sigma), steps)])
    for rate in FALSE_POSITIVE_RATES[1:]:
        threshold = np.quantile(others, 1 - rate)
        found = np.mean(members > threshold)
        bound = true_positive_rate(curve, rate)
        most_false = binom.ppf(1 - 1e-4, draws, rate) / draws
        assert found <= binom.ppf(1 - 1e-4, draws, true_positive_rate(curve, most_false)) / draws
        assert found >= 0.9 * bound


@pytest.mark.parametrize(("eps", "delta"), [(0.0, 1e-5), (0.5, 1e-5), (3.0, 1e-3), (20.0, 1e-6)])
def test_one_epsilon_and_delta_allow_what_their_worst_mechanism_allows(eps, delta):
    # Its four outcomes: given away (delta), more likely with, more likely without, given away.
    likely = (1 - delta) * math.exp(eps) / (1 + math.exp(eps))
    with_unit = [delta, likely, 1 - delta - likely, 0.0]
    without = [0.0, 1 - delta - likely, likely, delta]

    def power(false_positives: float) -> float:
        """Neyman and Pearson: reject in order of likelihood, the last outcome in part."""
        found = 0.0
        for here, there in zip(with_unit, without, strict=True):
            share = 1.0 if there == 0 else min(1.0, false_positives / there)
            found, false_positives = found + share * here, false_positives - share * there
        return found

    for rate in RATES:
        assert true_positive_rate([(eps, delta)], rate) == pytest.approx(power(rate))
    distance = sum(abs(a - b) for a, b in zip(with_unit, without, strict=True)) / 2
    assert advantage([(eps, delta)]) == pytest.approx(distance)


def test_the_curve_bounds_far_more_than_epsilon_and_delta_do():
    # The paper's MNIST settings at epsilon 10: from "finds everyone" to "finds one in seven".
    steps = [(poisson_sampled_gaussian(4096 / 60000, 2.38), 4394)]
    curve = privacy_curve(steps)
    pair = (epsilon(steps, 1e-5), 1e-5)
    assert true_positive_rate([pair], 0.001) > 0.99
    assert true_positive_rate(curve, 0.001) < 0.15
    assert all(
        true_positive_rate([*curve, pair], f) <= true_positive_rate([pair], f) for f in RATES
    )


def test_where_nothing_was_spent_there_is_nothing_to_find():
    curve = privacy_curve([])
    assert advantage(curve) == 0
    assert all(true_positive_rate(curve, rate) == rate for rate in RATES)


def test_the_bounds_are_plain_json_with_a_rising_curve_above_the_diagonal():
    bounds = attack_bounds(privacy_curve([(gaussian(2.0), 1)]))
    assert json.loads(json.dumps(bounds, allow_nan=False)) == bounds
    f, t = np.array(bounds["curve"]).T
    assert (f[0], f[-1], t[-1]) == (0, 1, 1)
    assert len(f) == 50
    assert np.all(np.diff(f) > 0)
    assert np.all(np.diff(t) >= 0)
    assert np.all(t >= f)
    assert np.max(t - f) <= bounds["advantage_at_most"]
    assert np.max(t - f) == pytest.approx(bounds["advantage_at_most"], rel=0.01)


def test_the_curve_is_the_same_seen_from_the_other_side():
    # Bounds hold for adding and removing, so false positives and missed members change places.
    curve = privacy_curve([(poisson_sampled_gaussian(0.3, 1.0), 20)])
    for rate in (0.01, 0.1, 0.4):
        mirrored = brentq(lambda f, r=rate: 1 - true_positive_rate(curve, f) - r, 0, 1)
        assert 1 - true_positive_rate(curve, rate) == pytest.approx(mirrored, rel=1e-6)


def test_the_bounds_of_a_huge_epsilon_are_finite():
    bounds = attack_bounds([(5000.0, 1e-5)])
    assert bounds["advantage_at_most"] == 1
    assert all(row["true_positive_rate"] == 1 for row in bounds["true_positive_rate_at_most"])
    stated = build_statement(
        [("sum", gaussian(0.01), 1)],
        delta=1e-5,
        accountant="pld",
        unit="image",
        noise_source="any",
        enabled=True,
        seeded=False,
        planned_epsilon=10.0,
        image_shape=(8, 8, 1),
        classes=0,
        public_size=100,
        public_size_declared=True,
    )
    assert "weak protection" in render_markdown(stated)

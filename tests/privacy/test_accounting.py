"""Accounting: bounds against closed forms; events; what is refused."""

from __future__ import annotations

import json
import logging
import math
from copy import deepcopy

import dp_accounting
import pytest
from dp_accounting.pld import PLDAccountant
from dp_accounting.rdp import RdpAccountant, rdp_privacy_accountant
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import norm

from dpdm.errors import RequestError
from dpdm.privacy import accounting
from dpdm.privacy.accounting import (
    Event,
    canonical,
    compose,
    epsilon,
    event_from_json,
    merged,
)
from dpdm.promise.attack import deltas
from dpdm.promise.planning import gaussian, poisson_sampled_gaussian

DELTA = 1e-5


def gaussian_delta(eps: float, sigma: float) -> float:
    """Balle and Wang (2018), Theorem 8, for sensitivity 1."""
    tail = norm.logcdf(-1 / (2 * sigma) - eps * sigma)
    return float(norm.cdf(1 / (2 * sigma) - eps * sigma) - math.exp(eps + tail))


def gaussian_epsilon(sigma: float, delta: float) -> float:
    return float(brentq(lambda e: gaussian_delta(e, sigma) - delta, 0, 1e4, xtol=1e-12))


def sampled_delta(eps: float, rate: float, sigma: float) -> float:
    """Hockey-stick divergence of one step, exactly, in the worse of the two directions.

    P = (1 - q) N(0, s^2) + q N(1, s^2) and Q = N(0, s^2): P/Q = 1 - q + q exp((2x - 1) / 2s^2)
    grows in x, so that each divergence is a difference of the two masses beyond one point.
    """

    def point(ratio: float) -> float:
        return 0.5 + sigma**2 * math.log((ratio - 1 + rate) / rate)

    def beyond(x: float) -> tuple[float, float]:
        alone = norm.sf(x / sigma)
        return (1 - rate) * alone + rate * norm.sf((x - 1) / sigma), alone

    mixed, alone = beyond(point(math.exp(eps)))
    removed = mixed - math.exp(eps) * alone
    added = 0.0
    if math.exp(-eps) > 1 - rate:
        mixed, alone = beyond(point(math.exp(-eps)))
        added = (1 - alone) - math.exp(eps) * (1 - mixed)
    return max(removed, added)


@pytest.mark.parametrize("sigma", [0.3, 0.7, 1.0, 3.0, 20.0, 200.0])
@pytest.mark.parametrize("delta", [1e-3, 1e-5, 1e-9])
def test_pld_of_a_gaussian_is_the_analytic_epsilon_from_above(sigma, delta):
    exact = gaussian_epsilon(sigma, delta)
    found = epsilon([(gaussian(sigma), 1)], delta)
    assert exact - 1e-9 <= found <= exact * 1.001


@pytest.mark.parametrize(
    ("steps", "mu", "delta"),
    [(10_000, 1.0, 1e-10), (10_000, 1.0, 1e-13), (23_843, 2.0, 1e-12), (100_000, 0.7, 1e-12)],
)
def test_rounding_of_many_steps_at_a_small_delta_does_not_lower_epsilon(steps, mu, delta):
    """Sampled at a rate of next to 1, these are one Gaussian on all units."""
    exact = gaussian_epsilon(1 / mu, delta)
    found = epsilon([(Event(math.sqrt(steps) / mu, 1 - 1e-9), steps)], delta)
    assert found >= exact


def test_rounding_is_nothing_at_usual_deltas():
    exact = gaussian_epsilon(1.0, DELTA)
    found = epsilon([(Event(math.sqrt(10_000), 1 - 1e-9), 10_000)], DELTA)
    assert exact <= found <= exact * 1.001


def test_gaussians_compose_like_one_gaussian():
    exact = gaussian_epsilon(1 / math.sqrt(16 / 8**2 + 5 / 3**2), DELTA)
    found = epsilon([(gaussian(8), 10), (gaussian(3), 5), (gaussian(8), 6)], DELTA)
    assert exact <= found <= exact * 1.001


@pytest.mark.parametrize("accountant", ["pld", "rdp"])
def test_gaussians_are_merged_as_dp_accounting_composes_them(accountant):
    """Beside sampled steps too, where each of them would have been rounded to bins."""
    counted = canonical(
        [(gaussian(8), 10), (gaussian(3), 5), (poisson_sampled_gaussian(0.1, 1), 9)]
    )
    together = merged(counted)
    assert [count for _, count in together] == [9, 1]
    assert together[1][0].noise_multiplier == pytest.approx((10 / 8**2 + 5 / 3**2) ** -0.5)
    relation = dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE
    made = {
        "pld": PLDAccountant(relation, value_discretization_interval=1e-4),
        "rdp": RdpAccountant([1.5, 2, 4, 8, 16], relation),
    }
    expected, found = (
        deepcopy(made[accountant]).compose(compose(pairs)).get_epsilon(DELTA)
        for pairs in (counted, together)
    )
    assert found == pytest.approx(expected, rel=1e-4)
    assert merged(together) == together
    assert merged(counted[:1]) == counted[:1]


@pytest.mark.parametrize(("rate", "sigma"), [(0.05, 0.8), (0.5, 2.0), (0.3, 0.5), (0.9, 40)])
def test_one_sampled_step_is_the_exact_divergence_from_above(rate, sigma):
    found = epsilon([(poisson_sampled_gaussian(rate, sigma), 1)], DELTA)
    assert sampled_delta(found * (1 + 1e-9), rate, sigma) <= DELTA
    assert sampled_delta(found * 0.999, rate, sigma) > DELTA


def test_nothing_spent_is_zero():
    assert epsilon([], DELTA) == 0.0
    assert epsilon([(gaussian(1), 0)], DELTA, "rdp") == 0.0


def test_a_sample_rate_of_one_is_the_plain_gaussian():
    event = poisson_sampled_gaussian(1, 3)
    assert event == gaussian(3)
    assert event.to_json()["kind"] == "gaussian"
    assert epsilon([(event, 4)], DELTA) == epsilon([(gaussian(3), 4)], DELTA)


def test_events_compose_in_any_order_and_grouping():
    a, b = gaussian(5), poisson_sampled_gaussian(0.1, 2)
    assert epsilon([(a, 1), (b, 9)], DELTA) == epsilon([(b, 4), (a, 1), (b, 5)], DELTA)
    assert compose([(b, 4), (b, 5)]) == compose([(b, 9)])


def test_the_loss_of_hardly_any_noise_is_computed_and_finite():
    counted = [(Event(0.02, 0.1), 100), (gaussian(0.01), 3)]
    assert 1e4 < epsilon(counted, DELTA) < 1e5


@pytest.mark.parametrize("accountant", ["pld", "rdp"])
def test_rounding_never_makes_a_huge_noise_free(accountant):
    few, many = [(Event(1e9, 0.07), 4394)], [(Event(1e4, 0.07), 4394)]
    assert 0 < epsilon(few, 1e-12, accountant) <= epsilon(many, 1e-12, accountant)


events = st.builds(
    Event,
    noise_multiplier=st.floats(1e-6, 1e9),
    sample_rate=st.one_of(st.just(1.0), st.floats(1e-9, 1.0)),
)


@given(events)
def test_an_event_survives_json(event):
    assert event_from_json(json.loads(json.dumps(event.to_json(), allow_nan=False))) == event


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"kind": "laplace", "noise_multiplier": 1.0},
        {"kind": "gaussian"},
        {"kind": "gaussian", "noise_multiplier": "1"},
        {"kind": "gaussian", "noise_multiplier": True},
        {"kind": "gaussian", "noise_multiplier": 1.0, "sample_rate": 0.5},
        {"kind": "poisson_sampled_gaussian", "noise_multiplier": 1.0},
        {"kind": "gaussian", "noise_multiplier": -1.0},
    ],
)
def test_json_that_is_no_event_is_refused(value):
    with pytest.raises(RequestError):
        event_from_json(value)


@pytest.mark.parametrize("noise", [0, -1, math.inf, math.nan])
def test_a_noise_multiplier_that_is_no_noise_is_refused(noise):
    with pytest.raises(RequestError, match="noise multiplier"):
        gaussian(noise)


def test_the_accountants_remarks_stay_off_standard_error(capfd):
    before = logging.getLogger("absl").level
    accounting._epsilon.cache_clear()
    epsilon([(Event(0.5, 0.5), 1000)], DELTA, "rdp")
    epsilon([(Event(1e9, 0.5), 1000)], DELTA, "rdp")
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger("absl").level == before


@pytest.mark.parametrize("sigma", [0.3, 1.0, 4.0, 50.0])
def test_the_curve_of_a_gaussian_is_the_analytic_one_from_above(sigma):
    grid = [0.0, 0.01, 0.1, 0.5, 1.0, 3.0, 8.0]
    for eps, found in zip(grid, deltas([(gaussian(sigma), 1)], grid), strict=True):
        exact = gaussian_delta(eps, sigma)
        assert exact - 1e-12 <= found <= exact * 1.001 + 1e-7


@pytest.mark.parametrize(("rate", "sigma"), [(0.05, 0.8), (0.5, 2.0), (0.3, 0.5), (0.9, 40)])
def test_the_curve_of_one_sampled_step_is_the_exact_divergence_from_above(rate, sigma):
    grid = [0.0, 0.005, 0.05, 0.4, 1.0, 2.0]
    found = deltas([(poisson_sampled_gaussian(rate, sigma), 1)], grid)
    for eps, bound in zip(grid, found, strict=True):
        exact = sampled_delta(eps, rate, sigma)
        assert exact - 1e-12 <= bound <= exact * 1.001 + 1e-7


def test_the_curve_never_claims_more_than_epsilon_does():
    counted = [(poisson_sampled_gaussian(0.07, 2.4), 4000), (gaussian(9), 2)]
    for delta in (1e-2, 1e-5, 1e-9):
        assert deltas(counted, [epsilon(counted, delta)])[0] <= delta * (1 + 1e-6)


def test_the_curve_of_nothing_is_zero_and_of_no_noise_is_one():
    assert deltas([], [0.0, 1.0]) == [0.0, 0.0]
    assert deltas([(gaussian(0.01), 1)], [0.0, 1.0]) == pytest.approx([1.0, 1.0])


@pytest.mark.parametrize("value", [-0.1, math.nan])
def test_a_curve_at_an_epsilon_below_zero_is_refused(value):
    with pytest.raises(RequestError, match="epsilons of 0 or more"):
        deltas([(gaussian(1), 1)], [1.0, value])


def test_many_small_losses_get_bins_that_are_finer_than_each():
    counted = [(poisson_sampled_gaussian(1e-4, 1.0), 10**6)]
    default, fine = epsilon(counted, DELTA), epsilon(counted, DELTA, discretization=2e-5)
    assert fine <= default <= fine * 1.025
    assert default < epsilon(counted, DELTA, "rdp")


@pytest.mark.parametrize("delta", [1e-5, 1e-12])
def test_a_divergence_that_rounding_made_negative_claims_nothing(delta, monkeypatch):
    class Rounded(rdp_privacy_accountant.RdpAccountant):
        def get_epsilon(self, target_delta):
            return 0.0 if len(self._orders) > 1 else super().get_epsilon(target_delta)

    counted = [(poisson_sampled_gaussian(0.01, 1.0), 100)]
    honest = epsilon(counted, delta, "rdp")
    accounting._epsilon.cache_clear()
    monkeypatch.setattr(rdp_privacy_accountant, "RdpAccountant", Rounded)
    claimed = epsilon(counted, delta, "rdp")
    accounting._epsilon.cache_clear()
    assert claimed >= honest > 0

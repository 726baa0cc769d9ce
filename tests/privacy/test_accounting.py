"""Accounting: the issue's checked values, bounds against closed forms and Opacus."""

from __future__ import annotations

import json
import logging
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import brentq
from scipy.stats import norm

from dpdm.errors import RequestError
from dpdm.privacy import accounting
from dpdm.privacy.accounting import (
    Event,
    check_delta,
    compose,
    epsilon,
    event_from_json,
    gaussian,
    gaussian_noise_multiplier_for,
    noise_multiplier_for,
    plan,
    poisson_sampled_gaussian,
    steps_within,
)

MNIST_RATE = 4096 / 60000
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


@pytest.mark.parametrize(
    ("target", "steps", "accountant", "noise"),
    [
        (10, 4394, "rdp", "2.514"),
        (10, 4394, "pld", "2.38"),
        (1, 4394, "rdp", "18.35"),
        (1, 4394, "pld", "17.01"),
        (0.2, 732, "rdp", "33.33"),
        (0.2, 732, "pld", "30.68"),
    ],
)
def test_noise_of_the_papers_mnist_settings(target, steps, accountant, noise):
    found = noise_multiplier_for(target, DELTA, MNIST_RATE, steps, accountant=accountant)
    assert f"{found:.4g}" == noise


def test_finer_bins_need_less_noise_at_small_epsilon():
    fine = noise_multiplier_for(0.2, DELTA, MNIST_RATE, 732, discretization=1e-4)
    assert f"{fine:.4g}" == "30.18"


@pytest.mark.parametrize("accountant", ["pld", "rdp"])
@pytest.mark.parametrize(
    ("target", "rate", "steps"), [(8, 0.02, 300), (0.5, 1, 20), (0.02, 0.1, 5)]
)
def test_the_noise_is_enough_and_a_millionth_less_is_not(target, rate, steps, accountant):
    noise = noise_multiplier_for(target, DELTA, rate, steps, accountant=accountant)

    def spent(value: float) -> float:
        return epsilon([(Event(value, rate), steps)], DELTA, accountant)

    assert spent(noise) <= target < spent(noise * (1 - 3e-6))


@pytest.mark.parametrize("sigma", [0.3, 0.7, 1.0, 3.0, 20.0, 200.0])
@pytest.mark.parametrize("delta", [1e-3, 1e-5, 1e-9])
def test_pld_of_a_gaussian_is_the_analytic_epsilon_from_above(sigma, delta):
    exact = gaussian_epsilon(sigma, delta)
    found = epsilon([(gaussian(sigma), 1)], delta)
    assert exact - 1e-9 <= found <= exact * 1.001


@pytest.mark.parametrize("target", [0.05, 0.5, 2, 10])
def test_noise_of_a_full_batch_gaussian_is_the_analytic_one(target):
    exact = brentq(lambda s: gaussian_delta(target, s) - DELTA, 0.05, 1000)
    assert gaussian_noise_multiplier_for(target, DELTA) == pytest.approx(exact, rel=1e-3)


def test_gaussians_compose_like_one_gaussian():
    exact = gaussian_epsilon(1 / math.sqrt(16 / 8**2 + 5 / 3**2), DELTA)
    found = epsilon([(gaussian(8), 10), (gaussian(3), 5), (gaussian(8), 6)], DELTA)
    assert found == pytest.approx(exact, rel=1e-3)


@pytest.mark.parametrize(("rate", "sigma"), [(0.05, 0.8), (0.5, 2.0), (0.3, 0.5), (0.9, 40)])
def test_one_sampled_step_is_the_exact_divergence_from_above(rate, sigma):
    found = epsilon([(poisson_sampled_gaussian(rate, sigma), 1)], DELTA)
    assert sampled_delta(found * (1 + 1e-9), rate, sigma) <= DELTA
    assert sampled_delta(found * 0.999, rate, sigma) > DELTA


@pytest.mark.parametrize("rate", [0.001, 0.07, 1.0])
@pytest.mark.parametrize("noise", [0.6, 2.0, 15.0, 1000.0])
@pytest.mark.parametrize(("steps", "delta"), [(1, 1e-5), (300, 1e-7), (5000, 1e-5)])
def test_pld_is_never_worse_than_rdp(rate, noise, steps, delta):
    counted = [(Event(noise, rate), steps)]
    assert epsilon(counted, delta, "pld") <= epsilon(counted, delta, "rdp") * 1.001


@pytest.mark.parametrize(("rate", "noise", "steps"), [(0.01, 1.0, 1000), (0.07, 2.5, 4394)])
def test_rdp_agrees_with_opacus(rate, noise, steps):
    accountants = pytest.importorskip("opacus.accountants")
    theirs = accountants.RDPAccountant()
    theirs.history = [(noise, rate, steps)]
    ours = epsilon([(Event(noise, rate), steps)], DELTA, "rdp")
    assert ours == pytest.approx(theirs.get_epsilon(DELTA), rel=0.01)


def test_nothing_spent_is_zero():
    assert epsilon([], DELTA) == 0.0
    assert epsilon([(gaussian(1), 0)], DELTA, "rdp") == 0.0


def test_a_sample_rate_of_one_is_the_plain_gaussian():
    event = poisson_sampled_gaussian(1, 3)
    assert event == gaussian(3)
    assert event.kind == "gaussian"
    assert epsilon([(event, 4)], DELTA) == epsilon([(gaussian(3), 4)], DELTA)


def test_events_compose_in_any_order_and_grouping():
    a, b = gaussian(5), poisson_sampled_gaussian(0.1, 2)
    assert epsilon([(a, 1), (b, 9)], DELTA) == epsilon([(b, 4), (a, 1), (b, 5)], DELTA)
    assert compose([(b, 4), (b, 5)]) == compose([(b, 9)])


@pytest.mark.parametrize("accountant", ["pld", "rdp"])
def test_other_mechanisms_share_the_budget(accountant):
    prior = (gaussian(4), 1)
    alone = noise_multiplier_for(3, DELTA, 0.05, 100, accountant=accountant)
    shared = noise_multiplier_for(3, DELTA, 0.05, 100, [prior], accountant)
    step = poisson_sampled_gaussian(0.05, shared)
    assert shared > alone
    assert epsilon([prior, (step, 100)], DELTA, accountant) <= 3


def test_a_prior_that_took_the_whole_budget_is_refused():
    with pytest.raises(RequestError, match="other mechanisms already spend"):
        noise_multiplier_for(1, DELTA, 0.05, 100, [(gaussian(1), 1)])


def test_the_loss_of_hardly_any_noise_is_computed_and_finite():
    counted = [(Event(0.02, 0.1), 100), (gaussian(0.01), 3)]
    assert 1e4 < epsilon(counted, DELTA) < 1e5


@pytest.mark.parametrize("accountant", ["pld", "rdp"])
def test_rounding_never_makes_a_huge_noise_free(accountant):
    few, many = [(Event(1e9, 0.07), 4394)], [(Event(1e4, 0.07), 4394)]
    assert 0 < epsilon(few, 1e-12, accountant) <= epsilon(many, 1e-12, accountant)


def test_steps_within_is_the_last_step_that_fits():
    event, prior = poisson_sampled_gaussian(0.05, 1.2), (gaussian(6), 1)
    steps = steps_within(4, DELTA, event, [prior])
    assert (
        epsilon([(event, steps), prior], DELTA) <= 4 < epsilon([(event, steps + 1), prior], DELTA)
    )


@pytest.mark.parametrize("accountant", ["pld", "rdp"])
def test_steps_within_allows_the_steps_the_noise_was_planned_for(accountant):
    prior = (gaussian(9), 2)
    noise = noise_multiplier_for(2, DELTA, 0.1, 150, [prior], accountant)
    event = poisson_sampled_gaussian(0.1, noise)
    assert steps_within(2, DELTA, event, [prior], accountant) == 150


def test_steps_within_stops_at_most_where_told():
    event = poisson_sampled_gaussian(0.01, 50)
    assert steps_within(10, DELTA, event, at_most=7) == 7
    assert steps_within(10, DELTA, event, at_most=0) == 0


def test_steps_within_is_zero_where_the_budget_is_spent():
    assert steps_within(1, DELTA, gaussian(50), [(gaussian(1), 1)]) == 0


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


@pytest.mark.parametrize(
    ("request_values", "message"),
    [
        ({"epsilon": 0}, "epsilon=0: must be positive"),
        ({"epsilon": -1}, "must be positive"),
        ({"epsilon": math.inf}, "must be positive and finite"),
        ({"epsilon": math.nan}, "must be positive and finite"),
        ({"delta": 0}, "delta=0: must lie between 0 and 1"),
        ({"delta": 1}, "between 0 and 1"),
        ({"delta": math.nan}, "between 0 and 1"),
        ({"sample_rate": 0}, "sample rate 0: must be above 0"),
        ({"sample_rate": 1.1}, "at most 1"),
        ({"sample_rate": math.nan}, "at most 1"),
        ({"steps": 0}, "steps=0: must lie between 1 and"),
        ({"steps": 10**10}, "steps=10000000000: must lie between 1 and"),
        ({"accountant": "moments"}, "accountant 'moments': must be one of pld, rdp"),
        ({"epsilon": 0.001, "accountant": "rdp"}, "no noise meets epsilon=0.001"),
        ({"epsilon": 1, "delta": 1e-17, "steps": 10}, "no noise meets"),
        ({"epsilon": 1e12, "accountant": "rdp"}, "next to no noise"),
    ],
)
def test_requests_that_make_no_promise_are_refused_in_one_line(request_values, message):
    values = {"epsilon": 1.0, "delta": DELTA, "sample_rate": 0.1, "steps": 100} | request_values
    with pytest.raises(RequestError, match=r"^[^\n]+$") as refusal:
        noise_multiplier_for(**values)
    assert message in str(refusal.value)


def test_a_tiny_epsilon_is_met_by_much_noise():
    noise = noise_multiplier_for(1e-4, DELTA, 0.1, 100)
    assert 1e3 < noise < 1e5
    assert epsilon([(Event(noise, 0.1), 100)], DELTA) <= 1e-4


@pytest.mark.parametrize("noise", [0, -1, math.inf, math.nan])
def test_a_noise_multiplier_that_is_no_noise_is_refused(noise):
    with pytest.raises(RequestError, match="noise multiplier"):
        gaussian(noise)


def test_plan_solves_for_the_noise():
    result = plan(delta=DELTA, sample_rate=MNIST_RATE, steps=4394, epsilon=10)
    assert set(result) == {
        "epsilon",
        "delta",
        "noise_multiplier",
        "sample_rate",
        "steps",
        "accountant",
    }
    assert result["epsilon"] == 10
    assert f"{result['noise_multiplier']:.4g}" == "2.38"


def test_plan_solves_for_epsilon():
    result = plan(delta=DELTA, sample_rate=1, steps=1, noise_multiplier=2.0)
    assert result["epsilon"] == pytest.approx(gaussian_epsilon(2.0, DELTA), rel=1e-3)


@pytest.mark.parametrize("given", [{}, {"epsilon": 1.0, "noise_multiplier": 1.0}])
def test_plan_wants_exactly_one_of_epsilon_and_noise(given):
    with pytest.raises(RequestError, match="exactly one"):
        plan(delta=DELTA, sample_rate=0.1, steps=10, **given)


def test_plan_refuses_to_print_an_infinite_epsilon():
    with pytest.raises(RequestError, match="no finite epsilon"):
        plan(delta=1e-17, sample_rate=0.1, steps=1000, noise_multiplier=1.0)


@pytest.mark.parametrize(("delta", "size"), [(1 / 60000, 60000), (0.1, 60000), (0.5, 2), (0.2, 5)])
def test_a_delta_not_below_one_over_the_size_is_refused_with_one_that_is(delta, size):
    with pytest.raises(RequestError, match="not below 1 / ") as refusal:
        check_delta(delta, size)
    suggested = float(str(refusal.value).split("use ")[1].split()[0])
    check_delta(suggested, size)
    assert suggested > 0.005 / size


def test_a_delta_below_one_over_the_size_is_accepted():
    check_delta(1e-5, 60000)


def test_the_accountants_remarks_stay_off_standard_error(capfd):
    before = logging.getLogger("absl").level
    accounting._epsilon.cache_clear()
    epsilon([(Event(0.5, 0.5), 1000)], DELTA, "rdp")
    epsilon([(Event(1e9, 0.5), 1000)], DELTA, "rdp")
    assert capfd.readouterr() == ("", "")
    assert logging.getLogger("absl").level == before

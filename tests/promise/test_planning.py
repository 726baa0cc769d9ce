"""Planning: the issue's checked values; every search ends where the promise holds."""

from __future__ import annotations

import math

import pytest
from scipy.optimize import brentq
from scipy.stats import norm

from dpdm.errors import RequestError
from dpdm.privacy.accounting import Event, epsilon
from dpdm.promise import plan, planning
from dpdm.promise.planning import (
    check_delta,
    gaussian,
    gaussian_noise_multiplier_for,
    noise_multiplier_for,
    poisson_sampled_gaussian,
    sample_rate_within,
    steps_within,
)

MNIST_RATE = 4096 / 60000
DELTA = 1e-5


def gaussian_delta(eps: float, sigma: float) -> float:
    """Balle and Wang (2018), Theorem 8, for sensitivity 1."""
    tail = norm.logcdf(-1 / (2 * sigma) - eps * sigma)
    return float(norm.cdf(1 / (2 * sigma) - eps * sigma) - math.exp(eps + tail))


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


@pytest.mark.parametrize("target", [0.05, 0.5, 2, 10])
def test_noise_of_a_full_batch_gaussian_is_the_analytic_one(target):
    exact = brentq(lambda s: gaussian_delta(target, s) - DELTA, 0.05, 1000)
    assert gaussian_noise_multiplier_for(target, DELTA) == pytest.approx(exact, rel=1e-3)


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


@pytest.mark.parametrize(("delta", "size"), [(1 / 60000, 60000), (0.1, 60000), (0.5, 2), (0.2, 5)])
def test_a_delta_not_below_one_over_the_size_is_refused_with_one_that_is(delta, size):
    with pytest.raises(RequestError, match="not below 1 / ") as refusal:
        check_delta(delta, size)
    suggested = float(str(refusal.value).split("use ")[1].split()[0])
    check_delta(suggested, size)
    assert suggested > 0.005 / size


def test_a_delta_below_one_over_the_size_is_accepted():
    check_delta(1e-5, 60000)


@pytest.mark.parametrize("accountant", ["pld", "rdp"])
@pytest.mark.parametrize(("target", "noise", "steps"), [(10, 2.5, 4394), (1, 5.0, 100)])
def test_the_sample_rate_stays_within_and_a_millionth_more_does_not(
    target, noise, steps, accountant
):
    rate = sample_rate_within(target, DELTA, noise, steps, accountant=accountant)

    def spent(value: float) -> float:
        return epsilon([(Event(noise, value), steps)], DELTA, accountant)

    assert 0 < rate < 1
    assert spent(rate) <= target < spent(rate * (1 + 3e-6))


def test_the_sample_rate_leaves_room_for_other_mechanisms():
    prior = (gaussian(4), 1)
    rate = sample_rate_within(3, DELTA, 1.5, 100, [prior])
    assert rate < sample_rate_within(3, DELTA, 1.5, 100)
    assert epsilon([prior, (Event(1.5, rate), 100)], DELTA) <= 3


def test_with_much_noise_every_unit_may_take_part_in_every_step():
    assert sample_rate_within(1, DELTA, 100, 10) == 1.0


def test_no_sample_rate_is_small_enough_for_a_budget_that_is_spent():
    with pytest.raises(RequestError, match="no sample rate meets epsilon=1"):
        sample_rate_within(1, DELTA, 1, 10, [(gaussian(1), 1)])


ASKED = {"epsilon": 0.5, "noise_multiplier": 6.0, "steps": 90, "sample_rate": 0.06}


@pytest.mark.parametrize(
    ("unknown", "accountant"), [*((name, "pld") for name in ASKED), ("noise_multiplier", "rdp")]
)
def test_plan_solves_for_any_one_of_four(unknown, accountant):
    given = {name: value for name, value in ASKED.items() if name != unknown}
    result = plan(delta=DELTA, accountant=accountant, **given)
    assert result["solved_for"] == unknown
    assert {name: result[name] for name in given} == given
    event = Event(result["noise_multiplier"], result["sample_rate"])
    assert epsilon([(event, result["steps"])], DELTA, accountant) <= result["epsilon"]
    chosen = result["by_accountant"][accountant]
    assert {name: result[name] for name in ASKED} == chosen
    pld, rdp = (result["by_accountant"][name][unknown] for name in ("pld", "rdp"))
    better = pld < rdp if unknown in ("epsilon", "noise_multiplier") else pld > rdp
    assert better


def test_plan_of_the_papers_mnist_setting():
    result = plan(delta=DELTA, sample_rate=MNIST_RATE, steps=4394, epsilon=10)
    assert result["epsilon"] == 10
    assert f"{result['noise_multiplier']:.4g}" == "2.38"
    assert f"{result['by_accountant']['rdp']['noise_multiplier']:.4g}" == "2.514"
    assert result["batch_size"] is None


def test_plan_repeats_the_closed_form_of_one_gaussian():
    result = plan(delta=DELTA, sample_rate=1, steps=1, noise_multiplier=2.0)
    exact = brentq(lambda e: gaussian_delta(e, 2.0) - DELTA, 0, 100)
    assert result["epsilon"] == pytest.approx(exact, rel=1e-3)


def test_every_alternative_keeps_the_epsilon_and_what_it_says_it_keeps():
    result = plan(delta=1e-4, steps=400, epsilon=1, public_size=6000, batch_size=256)
    first, *others = result["same_epsilon"]
    assert first["keeps"] == "all"
    assert (first["batch_size"], first["steps"]) == (256, 400)
    assert [(row["keeps"], row["batch_size"]) for row in others] == [
        *(("epochs", size) for size in (64, 128, 512, 1024)),
        *(("noise_multiplier", size) for size in (128, 512)),
    ]
    for row in result["same_epsilon"]:
        event = Event(row["noise_multiplier"], row["sample_rate"])
        assert 0.98 < epsilon([(event, row["steps"])], 1e-4) <= 1
        assert row["epochs"] == pytest.approx(row["steps"] * row["batch_size"] / 6000)
        assert row["noise_of_mean"] == pytest.approx(row["noise_multiplier"] / row["batch_size"])
        assert row["noise_of_mean_times_units"] == pytest.approx(6000 * row["noise_of_mean"])
        if row["keeps"] == "epochs":
            assert row["epochs"] == pytest.approx(first["epochs"], rel=0.01)
        if row["keeps"] == "noise_multiplier":
            assert row["noise_multiplier"] == first["noise_multiplier"]


def test_alternatives_never_sample_more_than_every_unit():
    rows = plan(delta=DELTA, sample_rate=0.4, steps=20, epsilon=1)["same_epsilon"]
    assert max(row["sample_rate"] for row in rows) == 0.8
    assert rows[0]["noise_of_mean"] is None


def test_views_multiply_image_passes_and_nothing_else():
    result = plan(delta=DELTA, sample_rate=0.1, steps=50, noise_multiplier=3.0)
    assert [(row["views"], row["image_passes_per_unit"]) for row in result["views"]] == [
        (1, 5.0),
        (4, 20.0),
        (8, 40.0),
        (32, 160.0),
    ]


def test_an_accountant_without_a_solution_is_left_empty_beside_one_with():
    result = plan(delta=DELTA, sample_rate=1, steps=1, epsilon=0.003)
    assert result["by_accountant"]["rdp"] is None
    assert result["noise_multiplier"] > 100


@pytest.mark.parametrize(
    "given",
    [{}, ASKED, {"epsilon": 1.0, "steps": 10}, {"sample_rate": 0.1, "noise_multiplier": 1.0}],
)
def test_plan_wants_exactly_one_of_the_four_left_out(given):
    with pytest.raises(RequestError, match=r"^[^\n]*exactly one of[^\n]+$"):
        plan(delta=DELTA, **given)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"delta": 1e-17, "noise_multiplier": 1.0}, "no finite epsilon"),
        ({"noise_multiplier": 0.0}, "noise multiplier 0"),
        ({"epsilon": 1.0, "sample_rate": 2.0}, "sample rate 2"),
        ({"epsilon": 1.0, "steps": 0}, "steps=0"),
        ({"epsilon": 1.0, "delta": 0.0}, "delta=0"),
        ({"epsilon": 1.0, "noise_multiplier": 0.2, "steps": None}, "not even one step"),
        ({"epsilon": 9.0, "noise_multiplier": 1e4, "steps": None}, "1000000 steps or more"),
        ({"epsilon": 1.0, "public_size": 100, "delta": 0.01}, "not below 1 / 100"),
        ({"epsilon": 1.0, "public_size": 0}, "public size 0"),
        ({"epsilon": 1.0, "batch_size": 10}, "batch size / public size"),
        ({"epsilon": 1.0, "batch_size": 10, "public_size": 100}, "without a sample rate"),
        (
            {"epsilon": 1.0, "batch_size": 0, "public_size": 100, "sample_rate": None},
            "sample rate 0",
        ),
        (
            {"epsilon": 0.01, "noise_multiplier": 2, "public_size": 10, "sample_rate": None},
            "less than one unit per step",
        ),
    ],
)
def test_plan_refuses_in_one_line(values, message):
    request = {"delta": DELTA, "sample_rate": 0.1, "steps": 1000} | values
    with pytest.raises(RequestError, match=r"^[^\n]+$") as refusal:
        plan(**request)
    assert message in str(refusal.value)


@pytest.mark.parametrize("wrong", [0.0, 0.1, 10.0, math.inf])
def test_where_a_search_begins_does_not_change_what_it_finds(monkeypatch, wrong):
    right = planning.rough_epsilon
    expected = noise_multiplier_for(3.0, 1e-5, 0.05, 100)
    monkeypatch.setattr(planning, "rough_epsilon", lambda *given: right(*given) * wrong)
    planning._smallest_noise.cache_clear()
    assert noise_multiplier_for(3.0, 1e-5, 0.05, 100) == expected

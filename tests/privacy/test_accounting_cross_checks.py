"""Accounting against others: Opacus, Microsoft's prv-accountant, the closed form, quadrature.

Three programs that share no code with dp-accounting compute the same quantities over a grid from
epsilon 0.009 to 250 (the closed form to 6,500). PLD and both PRV accountants agree to 1% at every
point. RDP agrees at whole orders to nine digits; at fractional orders dp-accounting is above the
true divergence (it adds the absolute values of an alternating series, and leaves an order out where
that does not converge), Opacus is right: see the last two tests. So this program's RDP epsilon is
never too small, and up to 3 times too large where epsilon is above 100. Takes about 20 s.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import brentq
from scipy.special import log_ndtr, logsumexp

from dpdm.privacy import accounting
from dpdm.privacy.accounting import Event, compose, epsilon

Q = 4096 / 60000
GRID = [  # sample rate, noise multiplier, steps, delta; epsilon by PLD
    (0.001, 0.5, 3000, 1e-5),  # 3.94
    (0.001, 1.0, 3000, 1e-5),  # 0.26
    (0.01, 0.5, 3000, 1e-5),  # 22.1
    (0.01, 1.0, 1000, 1e-3),  # 1.16
    (0.01, 1.0, 1000, 1e-8),  # 2.70
    (0.01, 3.0, 1, 1e-5),  # 0.013
    (0.01, 20.0, 3000, 1e-5),  # 0.083
    (Q, 2.380445, 4394, 1e-5),  # 10
    (Q, 17.00648, 4394, 1e-5),  # 1
    (Q, 30.6751, 732, 1e-5),  # 0.2
    (Q, 20.0, 1, 1e-5),  # 0.0086
    (Q, 0.5, 1, 1e-5),  # 5.99
    (Q, 1.0, 3000, 1e-5),  # 31.5
    (Q, 0.5, 3000, 1e-5),  # 180
    (0.1, 5.0, 500, 1e-10),  # 2.85
    (0.3, 3.0, 3000, 1e-5),  # 38.8
    (0.3, 1.0, 3000, 1e-5),  # 252
    (1.0, 20.0, 1, 1e-5),  # 0.16
    (1.0, 20.0, 3000, 1e-5),  # 14.8
    (1.0, 3.0, 3000, 1e-5),  # 244
]
MEAN_REFUSED = (0.3, 1.0, 3000, 1e-5)
"""Where prv-accountant refuses: rounded to its mesh, the mean of so large a loss moves too far."""

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning")
over_the_grid = pytest.mark.parametrize("point", GRID, ids=str)


def spent(point, accountant="pld", **settings):
    rate, noise, steps, delta = point
    return epsilon([(Event(noise, rate), steps)], delta, accountant, **settings)


def in_fine_bins(point):
    return spent(point, discretization=min(1e-3, spent(point) / 2000))


def opacus_prv(point):
    """Lower bound, estimate and upper bound of Opacus's PRV accountant."""
    accountants = pytest.importorskip("opacus.accountants")
    rate, noise, steps, delta = point
    error = min(0.1, spent(point) / 20)
    theirs = accountants.PRVAccountant()
    theirs.history = [(noise, rate, steps)]
    composed = theirs._get_dprv(eps_error=error, delta_error=delta / 1000)
    return composed.compute_epsilon(delta, delta / 1000, error)


def microsoft_prv(point):
    """The same of Microsoft's (Gopi, Lee, Wutschitz 2021)."""
    package = pytest.importorskip("prv_accountant")
    rate, noise, steps, delta = point
    step = (
        package.GaussianMechanism(noise_multiplier=noise)
        if rate == 1
        else package.PoissonSubsampledGaussianMechanism(
            noise_multiplier=noise, sampling_probability=rate
        )
    )
    theirs = package.PRVAccountant(
        prvs=step,
        max_self_compositions=steps,
        eps_error=min(0.1, spent(point) / 20),
        delta_error=delta / 1000,
    )
    return theirs.compute_epsilon(delta, [steps])


def opacus_rdp(point, orders):
    """Epsilon and the order that gives it."""
    accountants = pytest.importorskip("opacus.accountants")
    rate, noise, steps, delta = point
    theirs = accountants.RDPAccountant()
    theirs.history = [(noise, rate, steps)]
    return theirs.get_privacy_spent(delta=delta, alphas=list(orders))


@over_the_grid
def test_pld_is_within_one_percent_of_the_prv_accountant_of_opacus(point):
    lower, estimate, _ = opacus_prv(point)
    assert in_fine_bins(point) == pytest.approx(estimate, rel=0.01)
    assert lower <= in_fine_bins(point)


@over_the_grid
def test_pld_is_within_one_percent_of_the_prv_accountant_of_microsoft(point):
    if point == MEAN_REFUSED:  # Opacus, whose mesh is the same, agrees with PLD there
        with pytest.raises(RuntimeError, match="Discrete mean differs"):
            microsoft_prv(point)
        return
    lower, estimate, _ = microsoft_prv(point)
    assert in_fine_bins(point) == pytest.approx(estimate, rel=0.01)
    assert lower <= in_fine_bins(point)


@over_the_grid
def test_bins_of_the_usual_width_cost_at_most_three_percent_and_never_claim_less(point):
    fine = in_fine_bins(point)
    assert fine * (1 - 1e-3) <= spent(point) <= fine * 1.03


@pytest.mark.parametrize("delta", [1e-3, 1e-5, 1e-9])
@pytest.mark.parametrize("steps", [1, 100, 3000])
@pytest.mark.parametrize("noise", [0.5, 3.0, 40.0, 1000.0])
def test_pld_without_sampling_is_the_closed_form(noise, steps, delta):
    """Balle and Wang (2018), Theorem 8, in logarithms: steps Gaussians are one of noise / sqrt."""
    sigma = noise / math.sqrt(steps)

    def excess(eps):
        above = log_ndtr(1 / (2 * sigma) - eps * sigma)
        below = eps + log_ndtr(-1 / (2 * sigma) - eps * sigma)
        return above + math.log1p(-math.exp(min(below - above, -1e-15))) - math.log(delta)

    if excess(1e-9) < 0:
        assert spent((1.0, noise, steps, delta)) == 0
        return
    exact = brentq(excess, 1e-9, 1 / (2 * sigma**2) + 10 / sigma, xtol=1e-12)
    found = spent((1.0, noise, steps, delta))
    assert exact * (1 - 1e-6) - 1e-9 <= found <= exact * 1.001


@over_the_grid
def test_pld_never_claims_more_than_rdp(point):
    assert spent(point) <= spent(point, "rdp") * 1.001


@pytest.mark.parametrize("accountant", ["pld", "rdp"])
@pytest.mark.parametrize("point", [GRID[1], GRID[7], GRID[10], GRID[15]], ids=str)
def test_epsilon_falls_with_noise_and_delta_and_grows_with_steps_and_rate(point, accountant):
    rate, noise, steps, delta = point
    here = spent(point, accountant)
    assert spent((rate, noise * 1.2, steps, delta), accountant) < here
    assert spent((rate, noise, steps, delta * 2), accountant) < here
    assert spent((rate, noise, steps + 1 + steps // 10, delta), accountant) > here
    assert spent((rate * 1.2, noise, steps, delta), accountant) > here


@over_the_grid
def test_rdp_at_whole_orders_is_that_of_opacus(point):
    rate, noise, steps, delta = point
    orders = [*range(2, 64), 128, 256, 512, 1024]
    theirs, _ = opacus_rdp(point, orders)
    event = compose([(Event(noise, rate), steps)])
    assert accounting._rdp_epsilon(event, delta, orders) == pytest.approx(theirs, rel=1e-6)


@over_the_grid
def test_rdp_is_within_two_percent_of_opacus_up_to_epsilon_40_and_never_below(point):
    """Above, the best order lies between 1 and 2, where dp-accounting is loose; see below."""
    theirs, _ = opacus_rdp(point, accounting._RDP_ORDERS)
    ours = spent(point, "rdp")
    assert ours >= theirs * (1 - 1e-6)
    if theirs < 40:
        assert ours <= theirs * 1.02


@pytest.mark.parametrize(("rate", "noise"), [(0.01, 0.5), (Q, 0.5), (0.3, 1.0), (0.3, 3.0)])
@pytest.mark.parametrize("order", [1.1, 1.5, 2, 2.5, 5, 8.5, 20])
def test_renyi_divergences_against_quadrature(rate, noise, order):
    """Opacus is right at every order; dp-accounting at whole ones, and above at fractional ones.

    The divergence of order a of one step is log E[(1 - q + q exp((2x - 1) / 2s^2))^a] / (a - 1)
    for x from N(0, s^2) (Mironov, Talwar, Zhang 2019, Section 3.3).
    """
    analysis = pytest.importorskip("opacus.accountants.analysis.rdp")
    x, step = np.linspace(-40 * noise, order + 40 * noise, 200_001, retstep=True)
    ratio = np.logaddexp(math.log1p(-rate), math.log(rate) + (2 * x - 1) / (2 * noise**2))
    density = -(x**2) / (2 * noise**2) - 0.5 * math.log(2 * math.pi * noise**2)
    exact = (logsumexp(order * ratio + density) + math.log(step)) / (order - 1)

    theirs = analysis.compute_rdp(q=rate, noise_multiplier=noise, steps=1, orders=float(order))
    assert theirs == pytest.approx(exact, rel=1e-6)

    ours = accounting.RdpAccountant([order]).compose(compose([(Event(noise, rate), 1)]))._rdp[0]
    assert ours >= exact * (1 - 1e-6)
    if order == int(order):
        assert ours == pytest.approx(exact, rel=1e-6)

"""What is found for all losses at once is what dp-accounting finds one by one."""

import math

import numpy as np
import pytest
from dp_accounting import GaussianDpEvent, NeighboringRelation, PoissonSampledDpEvent
from dp_accounting.pld.pld_privacy_accountant import PLDAccountant
from dp_accounting.pld.privacy_loss_mechanism import AdjacencyType, GaussianPrivacyLoss
from hypothesis import given, settings
from hypothesis import strategies as st

from dpdm.privacy.accounting import Event, privacy_losses
from dpdm.privacy.privacy_loss import hockey_stick, sampled_gaussian

noises = st.floats(-1, 2).map(lambda x: 10**x)
rates = st.one_of(st.just(1.0), st.floats(-6, 0).map(lambda x: 10**x), st.floats(0.9, 1))
directions = st.sampled_from([AdjacencyType.ADD, AdjacencyType.REMOVE])


@settings(max_examples=60)
@given(noises, rates, directions)
def test_divergences_are_the_library_s(noise, rate, which):
    loss = GaussianPrivacyLoss(noise, sampling_prob=rate, adjacency_type=which)
    bounds = loss.connect_dots_bounds()
    epsilons = np.linspace(bounds.epsilon_lower - 1, bounds.epsilon_upper + 1, 400)
    ours = hockey_stick(loss, epsilons)
    np.testing.assert_allclose(ours, loss.get_delta_for_epsilon(epsilons), rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("rate", [1e-6, 0.03, 0.5])
@pytest.mark.parametrize("which", [AdjacencyType.ADD, AdjacencyType.REMOVE])
def test_divergences_at_the_ends_of_the_loss(rate, which):
    """At 0 both directions are the total variation distance; beyond the last loss none is left."""
    loss = GaussianPrivacyLoss(1.0, sampling_prob=rate, adjacency_type=which)
    end = -math.log1p(-rate) * (1 if which == AdjacencyType.ADD else -1)
    at_zero, at_end, far_below = hockey_stick(loss, np.array([0.0, end, -50.0]))
    distance = rate * (1 - 2 * loss.noise_cdf(-0.5))
    assert at_zero == pytest.approx(distance, rel=1e-9)
    assert at_end == pytest.approx(0 if which == AdjacencyType.ADD else rate, abs=1e-15)
    assert far_below == pytest.approx(1 - math.exp(-50.0))


@pytest.mark.parametrize("noise", [0.03, 0.02])
def test_losses_beyond_what_an_exponential_holds(noise):
    loss = GaussianPrivacyLoss(noise, sampling_prob=0.1)
    epsilons = np.linspace(300.0, 900.0, 50)
    ours = hockey_stick(loss, epsilons)
    np.testing.assert_allclose(ours, loss.get_delta_for_epsilon(epsilons), rtol=1e-9, atol=1e-15)


@pytest.mark.parametrize("delta", [1e-5, 1e-9])
@pytest.mark.parametrize(
    "counted",
    [
        [(Event(1.0, 0.01), 1)],
        [(Event(0.7, 0.09), 150), (Event(1.4), 1)],
        [(Event(20.0, 0.2), 3000), (Event(9.0, 0.01), 40)],
        [(Event(0.3), 1)],
        [(Event(2.0), 7), (Event(5.0, 1e-3), 10_000)],
    ],
    ids=str,
)
def test_compositions_are_the_library_s(counted, delta):
    bins = 1e-3
    accountant = PLDAccountant(
        NeighboringRelation.ADD_OR_REMOVE_ONE, value_discretization_interval=bins
    )
    for event, count in counted:
        gaussian = GaussianDpEvent(event.noise_multiplier)
        whole = event.sample_rate == 1
        one = gaussian if whole else PoissonSampledDpEvent(event.sample_rate, gaussian)
        accountant.compose(one, count)
    ours = privacy_losses(tuple(counted), bins).get_epsilon_for_delta(delta)
    assert ours == pytest.approx(accountant.get_epsilon(delta), rel=1e-6)


def test_without_sampling_both_directions_are_one():
    losses = sampled_gaussian(1.0, 1.0, 1e-3)
    assert losses.get_delta_for_epsilon(0.0) == pytest.approx(
        math.erf(0.5 / math.sqrt(2)), rel=1e-6
    )

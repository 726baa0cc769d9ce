"""The privacy loss of a Gaussian on a Poisson sample, as ``dp-accounting`` discretises it, quickly.

The library finds the point of each privacy loss by itself, in Python, which takes half of an
answer where noise is small. Here all are found at once; bounds, distribution functions, connecting
of dots and composition are the library's. The tests hold its own answers beside these.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from dp_accounting.pld.pld_pmf import PLDPmf
    from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution
    from dp_accounting.pld.privacy_loss_mechanism import AdjacencyType, GaussianPrivacyLoss

Array = npt.NDArray[np.float64]

_EXPONENT = 500.0  # e^x is far from overflow


def sampled_gaussian(
    noise_multiplier: float, sample_rate: float, bins: float
) -> PrivacyLossDistribution:
    """One Gaussian mechanism on a Poisson sample: its losses in both directions, rounded to bins.

    Bins are ``bins`` wide; the rounding is connect-the-dots' and gives an upper bound (Doroshenko
    et al. 2022, Algorithm 1). ``sample_rate`` lies in (0, 1]; at 1 both directions are one.
    """
    from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution
    from dp_accounting.pld.privacy_loss_mechanism import AdjacencyType, GaussianPrivacyLoss

    def direction(which: AdjacencyType) -> PLDPmf:
        loss = GaussianPrivacyLoss(
            noise_multiplier, sampling_prob=sample_rate, adjacency_type=which
        )
        return _connected(loss, bins)

    removed = direction(AdjacencyType.REMOVE)
    if sample_rate == 1:
        return PrivacyLossDistribution(removed)
    return PrivacyLossDistribution(removed, direction(AdjacencyType.ADD))


def _connected(loss: GaussianPrivacyLoss, bins: float) -> PLDPmf:
    from dp_accounting.pld.pld_pmf import create_pmf_pessimistic_connect_dots_fixed_gap

    bounds = loss.connect_dots_bounds()
    low, high = math.floor(bounds.epsilon_lower / bins), math.ceil(bounds.epsilon_upper / bins)
    divergences = hockey_stick(loss, np.arange(low, high + 1) * bins)
    return create_pmf_pessimistic_connect_dots_fixed_gap(bins, low, high, divergences)


def hockey_stick(loss: GaussianPrivacyLoss, epsilons: Array) -> Array:
    """The divergence of a mechanism's two distributions at each epsilon, (n,), in [0, 1].

    P(x) - e^epsilon Q(x) up to the point x where the loss is epsilon, for the upper and the lower
    of the two, P and Q. Of a sampled mechanism losses lie above log(1 - q) when a unit is removed
    and below -log(1 - q) when it is added: there the divergence is 1 - e^epsilon and 0.
    """
    from dp_accounting.pld.privacy_loss_mechanism import AdjacencyType

    rate, added = loss.sampling_prob, loss.adjacency_type == AdjacencyType.ADD
    divergences = np.zeros_like(epsilons)
    if rate == 1:
        inside = np.ones(epsilons.shape, bool)
    elif added:
        inside = epsilons < -math.log1p(-rate)
    else:
        inside = epsilons > math.log1p(-rate)
        divergences[~inside] = -np.expm1(epsilons[~inside])
    epsilon = epsilons[inside]
    points = -_unsampled(-epsilon, rate) if added else _unsampled(epsilon, rate)
    points = -points * loss.standard_deviation**2 + (0.5 if added else -0.5)
    outside = np.exp(epsilon + loss.mu_lower_log_cdf(points))
    divergences[inside] = loss.mu_upper_cdf(points) - outside
    return np.clip(divergences, 0, 1)


def _unsampled(losses: Array, rate: float) -> Array:
    """The loss of the mechanism on all units where that on a sample of them is the given one.

    log(1 + (e^loss - 1) / q), which is minus infinity at log(1 - q).
    """
    if rate == 1:
        return losses
    small = np.minimum(losses, _EXPONENT)
    with np.errstate(divide="ignore"):
        near = np.log1p(np.maximum(np.expm1(small) / rate, -1))
    far = losses - math.log(rate) + np.log1p((rate - 1) * np.exp(-np.maximum(losses, _EXPONENT)))
    return np.where(losses < _EXPONENT, near, far)

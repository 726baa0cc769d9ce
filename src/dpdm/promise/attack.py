"""How well any attacker can tell whether one unit was in the data, whatever the method.

An attacker who sees the release and says "it was in" or "it was not" has a false-positive rate f
(said so of units that were not in the data) and a true-positive rate t (of units that were). If the
release is (epsilon, delta)-DP under adding or removing one unit, then (Kairouz, Oh and Viswanath
2015, Theorem 2.1)

    t <= e^epsilon f + delta    and    1 - f <= e^epsilon (1 - t) + delta.

One pair (epsilon, delta) gives one such corner. What ran is (epsilon, delta(epsilon))-DP for every
epsilon at once, and the least of all these bounds is its trade-off curve (Dong, Roth and Su 2022,
Proposition 2.12): much less than the bound of the one pair that a promise names.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from dpdm.errors import RequestError
from dpdm.privacy.accounting import (
    DISCRETIZATION,
    CountedEvent,
    bins_for,
    canonical,
    merged,
    privacy_losses,
    rounding_of,
)

FALSE_POSITIVE_RATES = (0.001, 0.01, 0.1)
"""The rates at which a statement bounds the true-positive rate."""

CURVE_POINTS = 50

Guarantee = tuple[float, float]
"""(epsilon, delta) that holds."""

# Beyond 12, e^epsilon times a false-positive rate of 1e-5 is above 1: nothing more is bounded.
_EPSILONS = (0.0, *np.geomspace(1e-4, 12.0, 400).tolist())
_LARGEST_EXPONENT = 700.0


def deltas(
    counted: Iterable[CountedEvent],
    epsilons: Sequence[float],
    discretization: float = DISCRETIZATION,
) -> list[float]:
    """Upper bounds on delta at each epsilon (0 or more), by PLD: the trade-off curve's other form.

    A test of one data set against its neighbour with errors a, b has a + e^epsilon b >= 1 - delta
    in both directions (Dong, Roth, Su 2022, Proposition 2.12). 0.0 where nothing was spent, 1.0
    where nothing can be proved.

    Raises:
        RequestError: an epsilon below zero.
    """
    if not all(value >= 0 for value in epsilons):
        raise RequestError("a trade-off curve is asked for at epsilons of 0 or more")
    listed = merged(counted)
    if not listed:
        return [0.0] * len(epsilons)
    bins = bins_for(listed, discretization, 1 / 10)
    if math.isinf(bins):
        return [1.0] * len(epsilons)
    losses, rounding = privacy_losses(listed, bins), rounding_of(listed)
    return [min(float(losses.get_delta_for_epsilon(value)) + rounding, 1.0) for value in epsilons]


def privacy_curve(counted: Iterable[CountedEvent]) -> list[Guarantee]:
    """What (event, count) pairs together guarantee: delta at 401 epsilons from 0 to 12.

    Each delta is an upper bound in both directions, adding a unit and removing one.
    """
    return list(_privacy_curve(canonical(counted)))


@lru_cache(maxsize=8)
def _privacy_curve(counted: tuple[CountedEvent, ...]) -> tuple[Guarantee, ...]:
    return tuple(zip(_EPSILONS, deltas(counted, _EPSILONS), strict=True))


def true_positive_rate(guarantees: Sequence[Guarantee], false_positive_rate: float) -> float:
    """The largest true-positive rate at a false-positive rate that all the guarantees allow.

    An upper bound for every attacker, since each guarantee holds; more of them make it tighter.
    """
    usable = [pair for pair in guarantees if pair[0] <= _LARGEST_EXPONENT]
    epsilon, delta = np.array([(0.0, 1.0), *usable]).T
    f = false_positive_rate
    grown = np.exp(epsilon) * f + delta
    shrunk = 1 - np.exp(-epsilon) * (1 - delta - f)
    return max(f, float(min(1.0, grown.min(), shrunk.min())))


def advantage(guarantees: Sequence[Guarantee]) -> float:
    """The largest difference of true- and false-positive rate that the guarantees allow.

    (e^epsilon - 1 + 2 delta) / (e^epsilon + 1), where the two inequalities meet; at epsilon = 0
    that is delta(0), the total variation distance, and exact.
    """
    epsilon, delta = np.array(guarantees).T
    shrink = np.exp(-epsilon)
    return float(min(1.0, ((1 - shrink + 2 * delta * shrink) / (1 + shrink)).min()))


def attack_bounds(guarantees: Sequence[Guarantee]) -> dict[str, Any]:
    """What the guarantees leave to an attacker, as JSON values.

    Keys: ``advantage_at_most``; ``true_positive_rate_at_most``, a list of
    {"false_positive_rate":, "true_positive_rate":} at ``FALSE_POSITIVE_RATES``; ``curve``, 50 pairs
    [false-positive rate, true-positive rate] from rate 0 to 1, for a picture (a straight line
    between two of them lies below the bound).
    """
    rates = np.linspace(0, 1, CURVE_POINTS) ** 3  # dense where the curve is steep
    return {
        "advantage_at_most": advantage(guarantees),
        "true_positive_rate_at_most": [
            {"false_positive_rate": f, "true_positive_rate": true_positive_rate(guarantees, f)}
            for f in FALSE_POSITIVE_RATES
        ],
        "curve": [[f, true_positive_rate(guarantees, f)] for f in rates.tolist()],
    }

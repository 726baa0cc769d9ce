"""Lower bounds on epsilon, with a stated confidence, from the guesses and scores of attacks."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.stats import beta, binom

Array = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]

_LARGEST_EPSILON = 60.0
_BISECTIONS = 25


def p_value(canaries: int, guesses: int, correct: int, epsilon: float, delta: float) -> float:
    """How likely ``correct`` or more right guesses are, at most, under (epsilon, delta)-DP.

    Steinke, Nasr and Jagielski 2023, "Privacy Auditing with One (1) Training Run", Theorem 5.2 and
    Appendix D. Of ``canaries`` (m), each in the data with probability 1/2, an attacker who sees the
    result guesses at most ``guesses`` (r). With W = Binomial(r, e^epsilon / (1 + e^epsilon)),

        P[v or more right] <= P[W >= v] + 2 m delta max_{i = 1..v} P[v - i <= W < v] / i.

    Raises:
        ValueError: counts that are not 0 <= correct <= guesses <= canaries.
    """
    if not 0 <= correct <= guesses <= canaries:
        raise ValueError(f"{correct} right of {guesses} guesses about {canaries} canaries")
    right = 1.0 / (1.0 + math.exp(-epsilon))
    tail = float(binom.sf(correct - 1, guesses, right))
    if correct == 0 or delta == 0:
        return min(1.0, tail)
    below = np.cumsum(binom.pmf(np.arange(correct - 1, -1, -1), guesses, right))
    worst = float((below / np.arange(1, correct + 1)).max())
    return min(1.0, tail + 2 * canaries * delta * worst)


@lru_cache(maxsize=4096)
def one_run_epsilon(
    canaries: int, guesses: int, correct: int, delta: float, confidence: float
) -> float:
    """The largest epsilon that the guesses refute, 0.0 where they refute none.

    With probability ``confidence`` or more, over canaries and mechanism, it is below every epsilon
    for which the mechanism is (epsilon, delta)-DP. ``guesses`` must be fixed before the attack.
    """
    low, high = 0.0, _LARGEST_EPSILON
    if p_value(canaries, guesses, correct, low, delta) >= 1 - confidence:
        return 0.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        refuted = p_value(canaries, guesses, correct, middle, delta) < 1 - confidence
        low, high = (middle, high) if refuted else (low, middle)
    return low


def many_run_epsilon(without: Array, with_unit: Array, delta: float, confidence: float) -> float:
    """A lower bound on epsilon from the scores of many runs on two neighbouring data sets.

    The event "score above t" or "score at most t" that separates best on the first half of the runs
    is counted on the second; its probabilities are bounded by Clopper and Pearson's (1934) interval
    and epsilon >= log((P[event] - delta) / Q[event]), in either direction (Nasr et al. 2021).

    Args:
        without: (n,) scores of runs without the unit.
        with_unit: (n',) scores of runs with it, in the same scale; higher speaks for the unit.
    """
    level = (1 - confidence) / 2
    scores = np.unique(np.concatenate([without[::2], with_unit[::2]]))
    # Between two scores, not at one: of the other half, some lie beyond the outermost of this one.
    thresholds = np.append((scores[1:] + scores[:-1]) / 2, scores[-1])
    tried = _event_epsilons(without[::2], with_unit[::2], thresholds, delta, level)
    direction, best = np.unravel_index(int(np.argmax(tried)), tried.shape)
    chosen = thresholds[best : best + 1]
    counted = _event_epsilons(without[1::2], with_unit[1::2], chosen, delta, level)
    return max(0.0, float(counted[direction, 0]))


def _event_epsilons(
    without: Array, with_unit: Array, thresholds: Array, delta: float, level: float
) -> Array:
    """(2, K) bounds: from "above t", which presence makes likely, and from "at most t"."""
    below, below_with = (
        np.searchsorted(np.sort(scores), thresholds, side="right")
        for scores in (without, with_unit)
    )
    n, n_with = len(without), len(with_unit)
    return np.stack(
        [
            _ratio(n_with - below_with, n_with, n - below, n, delta, level),
            _ratio(below, n, below_with, n_with, delta, level),
        ]
    )


def _ratio(
    likely: Integers, of: int, unlikely: Integers, of_those: int, delta: float, level: float
) -> Array:
    """log((P - delta) / Q) for the least P and the largest Q that the counts allow."""
    least = np.where(likely > 0, beta.ppf(level, np.maximum(likely, 1), of - likely + 1), 0.0)
    rest = of_those - unlikely
    most = np.where(rest > 0, beta.ppf(1 - level, unlikely + 1, np.maximum(rest, 1)), 1.0)
    bound: Array = np.log(np.maximum(least - delta, 1e-300) / most)
    return bound


@dataclass(frozen=True)
class TradeOff:
    """Error rates of the tests "score above t" for every t, with a simultaneous band.

    Attributes:
        false_positives: (K,) share of runs without the unit above t.
        false_negatives: (K,) share of runs with the unit not above t.
        margins: how far, at most, the true rates of the two lie from these, for all t at once.
    """

    false_positives: Array
    false_negatives: Array
    margins: tuple[float, float]

    def refutes(self, claimed: Callable[[Array], Array]) -> bool:
        """Whether some test, band included, errs less than the claimed trade-off curve allows.

        ``claimed`` maps false-positive rates to the least false-negative rate, and falls.
        """
        most_positives = np.minimum(1.0, self.false_positives + self.margins[0])
        return bool((self.false_negatives + self.margins[1] < claimed(most_positives)).any())


def empirical_trade_off(without: Array, with_unit: Array, confidence: float) -> TradeOff:
    """The trade-off curve of a score that is higher with the unit.

    The band is that of Dvoretzky, Kiefer and Wolfowitz with Massart's (1990) constant,
    sqrt(log(2 / a) / (2 n)) for each distribution at a = (1 - confidence) / 2.
    """
    thresholds = np.concatenate([[-math.inf], np.unique(np.concatenate([without, with_unit]))])
    ordered, ordered_with = np.sort(without), np.sort(with_unit)
    return TradeOff(
        1.0 - np.searchsorted(ordered, thresholds, side="right") / len(without),
        np.searchsorted(ordered_with, thresholds, side="right") / len(with_unit),
        (_band(len(without), confidence), _band(len(with_unit), confidence)),
    )


def _band(runs: int, confidence: float) -> float:
    return math.sqrt(math.log(4 / (1 - confidence)) / (2 * runs))

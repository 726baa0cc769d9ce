"""What an attacker with full access sees of a run, and what he makes of it.

He sees every value that leaves a mechanism, and knows everything but which canaries are in the
data: the mechanisms, the canaries' directions, and every real image. (Epsilon bounds an attacker
who knows all other units; where he subtracts the real images' sums, he only uses that.)
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import cast

import numpy as np
import numpy.typing as npt

from dpdm.audit.bounds import one_run_epsilon
from dpdm.audit.canaries import ENTRY, Array, Canaries, Chosen, Contributions, Integers
from dpdm.errors import DpdmError
from dpdm.privacy import DpSgdStep, Event, Gradients, NoisedScatter, NoisedSum, Session
from dpdm.privacy.mechanisms import Mechanism, Released

Statistic = NoisedSum | NoisedScatter

_SIMULATIONS = 12
_SHARES = (0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.6, 0.8, 1.0)
"""Of the canaries, about how many the attacker may choose to guess."""


def clipped(vectors: Array, max_norm: float) -> Array:
    """Rows with norm at most ``max_norm``: what the promise says, written a second time."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    result: Array = vectors * (max_norm / np.maximum(norms, max_norm))
    return result


def weighted_sums(
    mechanism: Statistic, vectors: Array, segments: Integers, weights: Array
) -> Array:
    """Per segment the weighted sum of the vectors, or of their outer products with themselves."""
    parts = []
    for segment in range(mechanism.segments):
        part, weight = vectors[segments == segment], weights[segments == segment]
        scatter = isinstance(mechanism, NoisedScatter)
        parts.append((part.T * weight) @ part if scatter else weight @ part)
    return np.stack(parts)


def event_of(mechanism: Statistic | DpSgdStep) -> Event:
    """What one release costs: what the ledger should hold of it, written a second time."""
    sample_rate = mechanism.sample_rate if isinstance(mechanism, DpSgdStep) else 1.0
    return Event(mechanism.noise_multiplier, sample_rate)


@dataclass(frozen=True)
class StepView:
    """One step: (m + blanks,) coordinates of the noised sum, over the clip norm."""

    coordinates: npt.NDArray[np.float32]
    mechanism: DpSgdStep


class Witness:
    """Collects what passes :meth:`AuditSession.publish`.

    The attacker's part: ``precision`` (m, m) and ``information`` (m,), which sum up the statistics
    (of the Gaussian log-likelihood of the canaries' signs, in the data 1 or not -1), and ``steps``.
    The auditor's, who knows who is in the data: ``residuals``, of each statistic what is left when
    everything is subtracted that should be in it (sum of squares over the noise's variance, degrees
    of freedom), ``mechanisms``, one of each name, and ``published``, how often one of a name was
    released, with the event that its noise and its sample rate make of it.
    """

    def __init__(self, canaries: Canaries) -> None:
        self.canaries = canaries
        self.precision = np.zeros((canaries.count, canaries.count))
        self.information = np.zeros(canaries.count)
        self.steps: list[StepView] = []
        self.residuals: list[tuple[str, float, int]] = []
        self.mechanisms: dict[str, Statistic | DpSgdStep] = {}
        self.published: Counter[tuple[str, Event]] = Counter()

    def see(self, mechanism: Mechanism, value: Array | Gradients) -> None:
        """Takes note of a released value.

        Raises:
            DpdmError: a mechanism that the audit has no attack for.
        """
        if isinstance(mechanism, DpSgdStep):
            assert isinstance(value, dict)
            own = value[ENTRY].double().cpu().numpy()
            scaled = own * (mechanism.expected_units / mechanism.max_grad_norm)
            self.steps.append(StepView(scaled.astype(np.float32), mechanism))
        elif isinstance(mechanism, NoisedSum | NoisedScatter):
            self._statistic(mechanism, cast(Array, value), self.canaries.take_sent())
        else:
            raise DpdmError(f"{mechanism.name}: the audit has no attack for this mechanism")
        self.mechanisms[mechanism.name] = mechanism
        self.published[mechanism.name, event_of(mechanism)] += 1

    def _statistic(self, mechanism: Statistic, value: Array, sent: Contributions) -> None:
        vectors, real_segments, real_weights = sent.real
        count = len(vectors)
        known = weighted_sums(
            mechanism,
            clipped(vectors, mechanism.max_norm),
            np.zeros(count, np.int64) if real_segments is None else real_segments,
            np.ones(count) if real_weights is None else real_weights,
        )
        directions, segments = sent.directions, sent.segments
        halves = weighted_sums(mechanism, directions, segments, np.full(len(segments), 0.5))
        centred = (value - known) / mechanism.sensitivity - halves
        # Matched filters: the projection on each canary, and of each canary on every other.
        power = 2 if isinstance(mechanism, NoisedScatter) else 1
        projected = np.empty(len(segments))
        for segment in range(mechanism.segments):
            members = segments == segment
            at = directions[members]
            there = at @ centred[segment]
            projected[members] = (there * at).sum(axis=1) if power == 2 else there
        overlap = (directions @ directions.T) ** power * (segments[:, None] == segments)
        variance = mechanism.noise_multiplier**2
        self.precision += overlap / variance
        self.information += projected / variance

        signs = np.where(self.canaries.included, 0.5, -0.5)
        rest = centred - weighted_sums(mechanism, directions, segments, signs)
        width = directions.shape[1]
        freedom = mechanism.segments * (width * (width + 1) // 2 if power == 2 else width)
        self.residuals.append((mechanism.name, float((rest**2).sum()) / variance, freedom))

    def scores(self) -> Array:
        """(m,) log-likelihood ratios of "in the data" over "not", added over all that was seen.

        Of the statistics by the linear estimate of all signs at once (Gaussian signs of variance
        1); of the steps exactly, given the sample rate.
        """
        uncertainty, estimate = self._estimate()
        total: Array = 2.0 * estimate / uncertainty
        for view in self.steps:
            total += step_ratio(view.coordinates[: len(total)], view.mechanism)
        return total

    def _estimate(self) -> tuple[Array, Array]:
        """(m,) variance that the statistics leave to each sign, and their estimate of it."""
        posterior = np.linalg.inv(self.precision / 4 + np.eye(self.canaries.count))
        return np.diag(posterior).copy(), posterior @ self.information / 2

    def guesses(self, delta: float, confidence: float) -> int:
        """How many guesses promise the best bound if the mechanisms are what they claim to be.

        Decided by simulation from public values alone: no score is looked at.
        """
        count = self.canaries.count
        uncertainty, _ = self._estimate()
        # Given the sign, the ratio is Gaussian with variance twice its mean.
        mean = 2.0 * (1.0 - uncertainty) / uncertainty
        offered = sorted({max(1, round(share * count)) for share in _SHARES})
        generator, bounds = np.random.default_rng(0), np.zeros(len(offered))
        for _ in range(_SIMULATIONS):
            included = generator.random(count) < 0.5
            total = np.where(included, mean, -mean)
            total += np.sqrt(2.0 * mean) * generator.standard_normal(count)
            for view in self.steps:
                inside = included & (generator.random(count) < view.mechanism.sample_rate)
                noise = view.mechanism.noise_multiplier * generator.standard_normal(count)
                total += step_ratio(inside + noise, view.mechanism)
            for index, guesses in enumerate(offered):
                correct = correct_guesses(total, included, guesses)
                bounds[index] += one_run_epsilon(count, guesses, correct, delta, confidence)
        return offered[int(np.argmax(bounds))]


def step_ratio(coordinates: npt.NDArray[np.floating], mechanism: DpSgdStep) -> Array:
    """Log-likelihood ratio of coordinates (m,): N(0, s^2), with probability q moved by 1."""
    q, variance = mechanism.sample_rate, mechanism.noise_multiplier**2
    moved = (coordinates.astype(np.float64) - 0.5) / variance
    if q == 1:
        return moved
    ratio: Array = np.logaddexp(math.log1p(-q), math.log(q) + moved)
    return ratio


def correct_guesses(scores: Array, included: Chosen, guesses: int) -> int:
    """Right guesses among the ``guesses`` canaries whose scores are furthest from zero."""
    surest = np.argsort(-np.abs(scores), kind="stable")[:guesses]
    return int(((scores[surest] > 0) == included[surest]).sum())


@dataclass(frozen=True)
class AuditSession(Session):
    """A session in which a witness sees every value that is published."""

    witness: Witness

    def publish(self, mechanism: Mechanism, step: int, value: Released) -> Released:
        self.witness.see(mechanism, cast("Array | Gradients", value))
        return value

"""Checks beside the bound: of the noise, the sampling and the sensitivity, each with its name.

The auditor knows which canaries are in the data. A check that fails names the fault; with none,
each fails with probability below 1e-7, so that a hundred pass with probability above 1 - 1e-5.
"""

from __future__ import annotations

import copy
import math
from collections import Counter
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import binom, chi2, norm

from dpdm.audit.attack import Statistic, Witness
from dpdm.audit.canaries import Array, Canaries
from dpdm.privacy import (
    DpSgdStep,
    Event,
    Ledger,
    NoisedScatter,
    NoiseSource,
    PrivateUnits,
    Session,
)
from dpdm.privacy.mechanisms import Mechanism

_LEVEL = 1e-7
_DEVIATIONS = 5.5
"""Beyond so many standard deviations a value that should be normal is none (4e-8)."""
_NEVER, _SMALLEST = 1e-18, 1e-300
"""Chances: of counts that are not looked at, and what an even smaller one is taken as."""
_AT_ONCE = 1000
"""Rows whose correlations with as many others are in memory together."""

_RELEASES, _VALUES = 320, 10_000
"""How many releases without data there are at least, and how many values in all."""
_WIDTH = 8
"""Of what a unit adds to a statistic there."""
_PARAMETERS = {
    "first.weight": (2, 4),
    "middle.weight": (1, 2, 2, 2),
    "middle.bias": (8,),
    "last.bias": (8,),
}
"""What a step has gradients for there: names and shapes."""


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        name: what should hold.
        passed: whether it does, or could not be looked at.
        seen: what was seen, one clause.
    """

    name: str
    passed: bool
    seen: str


def all_checks(witness: Witness, noise: NoiseSource, ledger: Ledger) -> list[Check]:
    """Every check that what was seen allows; ``ledger`` is that of the run."""
    mechanisms = witness.mechanisms.values()
    checks = [noise_is_fresh(noise), all_is_written_down(witness, ledger)]
    checks += [sensitivity_holds(mechanism) for mechanism in mechanisms]
    for mechanism in mechanisms:
        checks += noise_is_everywhere(mechanism, noise)
    checks += [
        _scale(f"{name}: noise as claimed, and nothing else", squares, freedom)
        for name, squares, freedom in witness.residuals
    ]
    return checks + _all_step_checks(witness)


def noise_is_fresh(noise: NoiseSource) -> Check:
    """The same draw of the same source in the same state, twice, gives different numbers."""
    first, second = (copy.deepcopy(noise).gaussian(16, key=("audit", 0)) for _ in range(2))
    same = int((first == second).sum())
    return Check("noise cannot be drawn again", same == 0, f"{same} of 16 numbers came twice")


def all_is_written_down(witness: Witness, ledger: Ledger) -> Check:
    """The ledger holds each release with its noise and sample rate, or more than that.

    What it holds for a step that was done again after an interruption may be too much.
    """
    held: Counter[tuple[str, Event]] = Counter()
    for name, event, count in ledger.counted_events(ledger.run):
        held[name, event] += count
    missing = witness.published - held
    seen = f"{missing.total()} of {witness.published.total()} releases are missing"
    if missing:
        seen += ": " + ", ".join(sorted({name for name, _ in missing}))
    return Check("the ledger holds what was published", not missing, seen)


class _Silence(NoiseSource):
    """No noise, and every unit in every sample."""

    private, source = True, "none"

    def _words(self, key: object) -> NoReturn:
        raise NotImplementedError

    def gaussian(self, shape: int | tuple[int, ...], *, key: object) -> Array:
        return np.zeros(shape)

    def poisson_mask(
        self, n: int, rate: float, *, key: object
    ) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        return np.ones(n, np.bool_)


@dataclass(frozen=True)
class _Rehearsal(Session):
    """A session that writes nothing down."""

    def spend(self, mechanism: Mechanism, step: int) -> NoiseSource | None:
        return self.noise


def sensitivity_holds(mechanism: Statistic | DpSgdStep) -> Check:
    """Without noise, one unit more moves what is released by no more than the noise is scaled to.

    Tried on one unit against two and on eight against nine, well within the clip norm and beyond.
    """
    generator = np.random.default_rng(0)
    worst = max(
        _moved(mechanism, length * generator.standard_normal((count, 8)))
        for count in (2, 9)
        for length in (1e-3, 1e6)
    )
    return Check(
        f"{mechanism.name}: one unit moves the release no further than the clip norm",
        worst <= 1 + 1e-6,
        f"{worst:.6g} times as far at most",
    )


def _moved(mechanism: Statistic | DpSgdStep, vectors: Array) -> float:
    session = _Rehearsal(None, _Silence())
    less, more = (
        _released(mechanism, PrivateUnits(torch.from_numpy(rows)), session)
        for rows in (vectors[:-1], vectors)
    )
    return float(np.linalg.norm(more - less))


def _released(mechanism: Statistic | DpSgdStep, units: PrivateUnits, session: Session) -> Array:
    """What leaves, over the mechanism's sensitivity."""
    if not isinstance(mechanism, DpSgdStep):
        value = mechanism.release(units, lambda rows, _: rows.numpy(), session)
        return value / mechanism.sensitivity

    def gradients(rows: torch.Tensor, _: object) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return torch.zeros(len(rows)), {"entry": rows}

    like = {"entry": torch.zeros(8)}
    value = mechanism.release(units, gradients, like, session, 0)[0]["entry"].double().numpy()
    return np.asarray(value * (mechanism.expected_units / mechanism.max_grad_norm))


def noise_is_everywhere(mechanism: Statistic | DpSgdStep, noise: NoiseSource) -> list[Check]:
    """Released again and again without data, nothing leaves but noise, on every value its own.

    The run itself is looked at where canaries are, and has few values of a small statistic.
    """
    size = _noise_alone(mechanism, noise, 0).size
    releases = max(_RELEASES, math.ceil(_VALUES / size))
    drawn = np.stack([_noise_alone(mechanism, noise, release) for release in range(releases)])
    part = "parameter" if isinstance(mechanism, DpSgdStep) else "segment"
    return [
        _scale(
            f"{mechanism.name}: noise as claimed in every {part}, tried without data",
            (drawn**2).sum(axis=(0, 2)),
            releases * drawn.shape[2],
        ),
        _uncorrelated(
            f"{mechanism.name}: each value has noise of its own, tried without data",
            drawn.reshape(releases, size).T,
            "two values' noise",
        ),
    ]


def _noise_alone(mechanism: Statistic | DpSgdStep, noise: NoiseSource, release: int) -> Array:
    """(parts, values) What leaves, over the deviation of its noise; by parameter or segment.

    In turn there is no unit, and there are some that add nothing.
    """
    units = PrivateUnits(torch.zeros((8 * (release % 2), _WIDTH), dtype=torch.float64))
    session = _Rehearsal(None, noise)
    if isinstance(mechanism, DpSgdStep):
        noised = mechanism.release(units, _no_gradients, _like(), session, release)[0]
        mean = torch.stack([noised[name].flatten() for name in _PARAMETERS]).double().numpy()
        whole: Array = mean * (mechanism.expected_units / mechanism.max_grad_norm)
        return whole / mechanism.noise_multiplier
    value = mechanism.release(
        units,
        lambda rows, _: (rows.numpy(), np.arange(len(rows)) % mechanism.segments),
        session,
        release,
    ) / (mechanism.noise_multiplier * mechanism.sensitivity)
    if not isinstance(mechanism, NoisedScatter):
        return value
    rows, columns = np.triu_indices(_WIDTH)
    return value[:, rows, columns] * np.where(rows == columns, 1.0, math.sqrt(2.0))


def _like(*leading: int) -> dict[str, torch.Tensor]:
    return {name: torch.zeros(*leading, *shape) for name, shape in _PARAMETERS.items()}


def _no_gradients(rows: torch.Tensor, _: object) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    return torch.zeros(len(rows)), _like(len(rows))


def _all_step_checks(witness: Witness) -> list[Check]:
    """Of each mechanism that took steps, as the labeller's and that of DP-SGD do."""
    seen: dict[DpSgdStep, list[npt.NDArray[np.float32]]] = {}
    for view in witness.steps:
        seen.setdefault(view.mechanism, []).append(view.coordinates)
    checks = []
    for mechanism, coordinates in seen.items():
        checks += _step_checks(mechanism, np.stack(coordinates), witness.canaries)
    return checks


def _step_checks(
    mechanism: DpSgdStep, seen: npt.NDArray[np.float32], canaries: Canaries
) -> list[Check]:
    """Of the coordinates (steps, m + blanks) that a mechanism's steps showed."""
    steps, name = len(seen), mechanism.name
    blanks = seen[:, canaries.count :].astype(np.float64) / mechanism.noise_multiplier
    totals = seen[:, : canaries.count].sum(axis=0, dtype=np.float64)[canaries.included]
    members = len(totals)
    checks = [_scale(f"{name}: noise as claimed", float((blanks**2).sum()), blanks.size)]
    named = f"{name}: a unit is in a step with the sample rate"
    if members:
        deviations = _as_normal(totals.sum(keepdims=True), steps * members, mechanism)
        checks.append(_normal(named, float(deviations[0])))
    else:
        checks.append(_left_out(named))
    if steps < 2:
        return checks
    checks.append(
        _uncorrelated(f"{name}: each step has noise of its own", blanks, "two steps' noise")
    )
    named = f"{name}: each step has a sample of its own"
    if members:
        squares = float((_as_normal(totals, steps, mechanism) ** 2).sum())
        checks.append(_scale(named, squares, members))
    else:
        checks.append(_left_out(named))
    return checks


def _as_normal(totals: Array, terms: int, mechanism: DpSgdStep) -> Array:
    """Standard normals of a member's coordinates summed over so many independent samples.

    Such a total is N(k, terms s^2) with k of Binomial(terms, q); a normal takes its place that is
    as rare, so that this is exact whatever the number of terms.
    """
    q, deviation = mechanism.sample_rate, mechanism.noise_multiplier * math.sqrt(terms)
    fewest, most = binom.ppf(_NEVER, terms, q), terms - binom.ppf(_NEVER, terms, 1 - q)
    counts = np.arange(fewest, most + 1)
    chances = binom.pmf(counts, terms, q)
    gaps = (totals[:, None] - counts) / deviation
    below, above = norm.cdf(gaps) @ chances, norm.sf(gaps) @ chances
    rare = np.maximum(np.minimum(below, above), _SMALLEST)
    normal: Array = np.where(below < above, norm.ppf(rare), norm.isf(rare))
    return normal


def _left_out(name: str) -> Check:
    return Check(name, True, "left out: none of the canaries was in the data")


def _uncorrelated(name: str, rows: Array, of: str) -> Check:
    """Whether no two rows of what should be standard normals go together."""
    number, width = rows.shape
    # Bernstein's inequality for sums of products of two normals, over all pairs.
    rarity = math.log(number * (number - 1) / _LEVEL) / width
    found = _largest_correlation(rows)
    most = math.sqrt(2 * rarity) + rarity
    return Check(name, found < most, f"correlation of {of} at most {found:.2f}")


def _largest_correlation(rows: Array) -> float:
    """Of two rows, the mean product, by size; in blocks, since there are as many as steps."""
    starts = range(0, len(rows), _AT_ONCE)
    largest = 0.0
    for index, start in enumerate(starts):
        for other in starts[index:]:
            products = rows[start : start + _AT_ONCE] @ rows[other : other + _AT_ONCE].T
            if other == start:
                products = np.triu(products, 1)
            largest = float(np.maximum(largest, np.abs(products).max()))  # NaN stays
    return float(largest / rows.shape[1])


def _scale(name: str, squares: float | Array, freedom: int) -> Check:
    """Of sums of squares of standard normals, one or one for each part."""
    each = np.atleast_1d(squares)
    rare = 2 * len(each) * np.minimum(chi2.cdf(each, freedom), chi2.sf(each, freedom))
    worst = int(np.argmin(rare))
    seen = f"{math.sqrt(each[worst] / freedom):.4g} times the claimed deviation, {freedom} values"
    if len(each) > 1:
        seen += f", the worst of {len(each)}"
    return Check(name, bool(rare[worst] >= _LEVEL), seen)


def _normal(name: str, deviations: float) -> Check:
    return Check(
        name,
        abs(deviations) < _DEVIATIONS,
        f"{deviations:+.1f} standard deviations from what is expected",
    )
